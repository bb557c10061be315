package agent

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/backup"
	"github.com/ahelme/comfyume/ui"
)

// BackupState is how the backups in a place are.
type BackupState = ui.Backup

// Drill is the record of a proven restore.
type Drill = backup.Drill

// keeping reads what the settings say of backups, and no more: a machine that is to
// be restored has no role yet.
func (v *Values) keeping(c *Config) error {
	c.KeepKeys = backup.Keys{ID: v.text("keep-key-id"), Secret: v.text("keep-key-secret"), CA: absolute(v.text("keep-ca"))}
	c.RecoveryKey = Secret(v.text("recovery-key"))
	for _, spec := range parseList(v.text("keep")) {
		t, err := backup.ParseTarget(spec, parseList(v.text("keep-legacy")))
		if err != nil {
			return err
		}
		c.Keep = append(c.Keep, t.With(c.KeepKeys))
	}
	return nil
}

// keepFolders are the places of backups on this machine.
func (c *Config) keepFolders() (out []string) {
	for _, t := range c.Keep {
		if f := t.Folder(); f != "" {
			out = append(out, f)
		}
	}
	return out
}

// RecoveryKey is the key of the settings or of the kit, "" if none was given.
func (v *Values) RecoveryKey() string { return v.text("recovery-key") }

// RestoreMachine prepares this machine's empty state folder: see PrepareRestore.
func RestoreMachine(ctx context.Context, v *Values, name string) (Prepared, error) {
	c := Config{StateDir: absolute(v.text("state-dir"))}
	if err := v.keeping(&c); err != nil {
		return Prepared{}, err
	}
	if c.RecoveryKey == "" {
		return Prepared{}, cluster.Errorf(cluster.Forbidden, "no agent runs here. To make this machine the one that was lost: comfyume-agent backup restore --env-file=KIT, with the recovery kit that backup init printed")
	}
	key, err := backup.ParseKey(string(c.RecoveryKey))
	if err != nil {
		return Prepared{}, err
	}
	return PrepareRestore(ctx, &c, key, name)
}

// RestorePlain writes files of a backup into a folder, under their own names.
func RestorePlain(ctx context.Context, v *Values, name, user, path, to string) (string, backup.Tally, error) {
	var c Config
	if err := v.keeping(&c); err != nil {
		return "", backup.Tally{}, err
	}
	vault, m, err := findBackup(ctx, &c, name)
	if err != nil {
		return "", backup.Tally{}, err
	}
	list, err := m.Pick(cluster.User(user), path)
	if err != nil {
		return "", backup.Tally{}, err
	}
	t, err := vault.Plain(ctx, m, list, absolute(to))
	return m.Name, t, err
}
