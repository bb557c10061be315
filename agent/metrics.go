package agent

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// metrics reads its figures from the tables when it is asked. No label ever
// holds a user's name or a job's id.
type metrics struct {
	source ui.Source
	health *health
	space  func() *ui.Space

	info, jobs, online, people, workers, nodes, ready, check, checkAge, index, copied, leads, voters, writable, disk, diskFree, diskFull, files, missing, damaged, scrubbed, atRisk, made, proven, kept *prometheus.Desc
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("comfyume_"+name, help, labels, nil)
}

// newMetrics registers everything this node tells about itself.
func newMetrics(reg prometheus.Registerer, source ui.Source, h *health, space func() *ui.Space) error {
	m := &metrics{
		source: source, health: h, space: space,
		info:     desc("agent_info", "Always 1; its labels say which build runs.", "version"),
		jobs:     desc("jobs_current", "Jobs in the table by state.", "state"),
		online:   desc("people_online_current", "People with an open page."),
		people:   desc("people_current", "People who may sign in."),
		workers:  desc("workers_current", "ComfyUI workers by state.", "state"),
		ready:    desc("health_ready", "1 when this node can take work."),
		check:    desc("health_check_ok", "1 when a check went well lately.", "check"),
		checkAge: desc("health_check_age_seconds", "Since a check last went well, -1 = never.", "check"),
		nodes:    desc("nodes_current", "Machines of the workshop by state.", "state"),
		index:    desc("log_last_index", "Index of the newest entry of the log."),
		copied:   desc("log_copied_index", "Index up to which entries are on two machines, 0 = not known here."),
		leads:    desc("log_leader", "1 on the node that leads."),
		voters:   desc("log_voters_current", "Nodes that vote."),
		writable: desc("log_writable", "1 when changes can be made, as far as this node knows."),
		disk:     desc("disk_used_ratio", "Share of the state folder's disk that is used."),
		files:    desc("files_here_current", "Files that the table names and that are kept here."),
		missing:  desc("files_missing_current", "Files that the table names and that should be here and are not."),
		damaged:  desc("files_damaged_total", "Files that were found damaged when they were read again."),
		scrubbed: desc("files_scrubbed_timestamp_seconds", "When every file had been read again last, since 1970; 0 = never."),
		atRisk:   desc("files_at_risk_current", "Files that are on one machine only, as far as this node knows."),
		made:     desc("backup_last_success_timestamp_seconds", "When the last whole backup was made, since 1970; 0 = none yet.", "place"),
		proven:   desc("backup_last_proven_restore_timestamp_seconds", "When a drill last brought everything back, since 1970; 0 = never.", "place"),
		kept:     desc("backup_in_order", "1 when the backups of a place are in order.", "place"),
		diskFree: desc("disk_free_bytes", "What is free of the state folder's disk."),
		diskFull: desc("disk_full_seconds", "Until the state folder's disk is 90 % full if it grows on as in the last hours, +Inf = it does not grow."),
	}
	for _, c := range []prometheus.Collector{m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Describe lists the figures.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.info, m.jobs, m.online, m.people, m.workers, m.nodes, m.ready, m.check, m.checkAge, m.index, m.copied, m.leads, m.voters, m.writable, m.disk, m.diskFree, m.diskFull, m.files, m.missing, m.damaged, m.scrubbed, m.atRisk, m.made, m.proven, m.kept} {
		ch <- d
	}
}

// Collect reads them.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v := m.source.View()
	gauge(m.info, 1, v.Head.Version)
	for state, n := range map[jobs.State]int{jobs.Pending: v.Counts.Waiting, jobs.Running: v.Counts.Running, jobs.Done: v.Counts.Done, jobs.Failed: v.Counts.Failed, jobs.Cancelled: v.Counts.Cancelled} {
		gauge(m.jobs, float64(n), string(state))
	}
	gauge(m.online, float64(v.Counts.Online))
	allowed := 0
	for _, p := range v.People {
		if !p.Disabled {
			allowed++
		}
	}
	gauge(m.people, float64(allowed))
	states := map[string]int{}
	for _, w := range v.Workers {
		states[w.State]++
	}
	for state, n := range states {
		gauge(m.workers, float64(n), state)
	}
	r := m.health.report()
	gauge(m.ready, number(r.Ready))
	for _, c := range r.Checks {
		gauge(m.check, number(c.OK), c.Name)
		gauge(m.checkAge, c.Age, c.Name)
	}
	machines := map[string]int{}
	for _, n := range v.Nodes {
		machines[n.State]++
	}
	for state, n := range machines {
		gauge(m.nodes, float64(n), state)
	}
	gauge(m.index, float64(v.Log.Last))
	gauge(m.copied, float64(v.Log.Copied))
	gauge(m.leads, number(v.Head.Leader == v.Head.Node))
	gauge(m.voters, float64(v.Head.Voters))
	gauge(m.writable, number(v.Head.ReadOnly == ""))
	gauge(m.atRisk, float64(v.Counts.AtRisk))
	for _, b := range v.Backups {
		whole := b.Made
		if b.Missing > 0 {
			whole = 0
		}
		gauge(m.made, float64(whole)/1000, b.Place)
		gauge(m.proven, float64(b.Proven)/1000, b.Place)
		gauge(m.kept, number(b.Problem == ""), b.Place)
	}
	m.collectDisk(ch, gauge)
}

// collectDisk leaves out what is not known.
func (m *metrics) collectDisk(ch chan<- prometheus.Metric, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	s := m.space()
	if s.Keeper {
		gauge(m.files, float64(s.Here))
		gauge(m.missing, float64(s.Missing))
		gauge(m.scrubbed, float64(s.Scrubbed)/1000)
		ch <- prometheus.MustNewConstMetric(m.damaged, prometheus.CounterValue, float64(s.Found))
	}
	if s.Used < 0 {
		return
	}
	gauge(m.disk, float64(s.Used)/100)
	gauge(m.diskFree, float64(s.Free))
	switch {
	case s.Full >= 0:
		gauge(m.diskFull, float64(s.Full))
	case s.Full == ui.FullNever:
		gauge(m.diskFull, math.Inf(1))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
