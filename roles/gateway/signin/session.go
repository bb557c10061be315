package signin

import (
	"context"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// NewSession is the text of a session for somebody who has just signed in. Any
// gateway of the workshop takes it; no table holds it.
func (s *SignIn) NewSession(id Identity) (text string, err error) {
	_, text, err = s.give(id.User, people.Session, SessionLife)
	return text, err
}

// Session says whose session a text is. renewed is a new text for a session that
// is in use and a day old, "" for a younger one.
func (s *SignIn) Session(text string) (id Identity, renewed string, err error) {
	id, p, err := s.valid(text, people.Session)
	if err != nil {
		return Identity{}, "", err
	}
	now := s.cfg.Now()
	if now.Sub(time.UnixMilli(p.Issued)) < renewAfter {
		return id, "", nil
	}
	p.Issued, p.Until = now.UnixMilli(), now.Add(SessionLife).UnixMilli()
	renewed, err = s.write(p) // under the same id: signing out ends all its texts
	return id, renewed, err
}

// EndSession signs a session out at every gateway, or with everywhere all that
// its user has: other browsers, links, tokens. A text that is no session any
// more ends nothing.
func (s *SignIn) EndSession(ctx context.Context, text string, everywhere bool) error {
	_, p, err := s.valid(text, people.Session)
	if err != nil {
		return nil //nolint:nilerr // it does not count: there is nothing to end
	}
	row := p.row()
	row.Until = s.cfg.Now().Add(SessionLife + renewAfter).UnixMilli() // a renewed text of it may be on its way
	_, err = s.cfg.Propose.Propose(ctx, &people.EndPass{Name: p.User, Pass: row, All: everywhere})
	return err
}

// NewLink makes a link for a participant that signs in once within life, at any
// gateway; one that was made before does not count any more. The text goes
// behind /login?link= of a door.
func (s *SignIn) NewLink(ctx context.Context, u cluster.User, life time.Duration) (text string, until time.Time, err error) {
	if life < time.Minute || life > MaxLinkLife {
		return "", time.Time{}, cluster.Errorf(cluster.Invalid, "a sign-in link lasts from a minute to %d days", MaxLinkLife/(24*time.Hour))
	}
	return s.grant(ctx, u, people.Link, life)
}

// NewToken makes a token for a participant's program, sent as Authorization:
// Bearer.
func (s *SignIn) NewToken(ctx context.Context, u cluster.User, life time.Duration) (text string, until time.Time, err error) {
	if life < time.Minute || life > MaxLife {
		return "", time.Time{}, cluster.Errorf(cluster.Invalid, "a token lasts from a minute to a year")
	}
	return s.grant(ctx, u, people.Token, life)
}

func (s *SignIn) grant(ctx context.Context, u cluster.User, kind people.PassKind, life time.Duration) (string, time.Time, error) {
	if u == s.cfg.Instructor {
		return "", time.Time{}, cluster.Errorf(cluster.Invalid, "links and tokens are for participants: the instructor signs in with the password")
	}
	p, text, err := s.give(u, kind, life)
	if err != nil {
		return "", time.Time{}, err
	}
	if _, err := s.cfg.Propose.Propose(ctx, &people.Give{Name: u, Pass: p.row()}); err != nil {
		return "", time.Time{}, err
	}
	return text, time.UnixMilli(p.Until), nil
}

// LinkFor says whom a link would sign in, without using it up: what looks at
// links before people do (mail scanners, chats) must not spend them.
func (s *SignIn) LinkFor(text string) (cluster.User, error) {
	id, _, err := s.valid(text, people.Link)
	if cluster.CodeOf(err) == cluster.Unauthorized {
		err = errLink
	}
	return id.User, err
}

var errLink = cluster.Errorf(cluster.Unauthorized, "This sign-in link does not count: it was used already, or a newer one was made, or its time is over. Ask the instructor for another, or sign in with your password.")

// Redeem uses a link up and says who is signed in by it. The table decides: of
// two gateways that are asked at once, one is refused with Unauthorized.
func (s *SignIn) Redeem(ctx context.Context, text string) (Identity, error) {
	id, p, err := s.valid(text, people.Link)
	if err == nil {
		_, err = s.cfg.Propose.Propose(ctx, &people.Redeem{Name: p.User, ID: p.ID})
	}
	switch cluster.CodeOf(err) {
	case "":
		return id, nil
	case cluster.Unauthorized, cluster.Conflict:
		return Identity{}, errLink
	}
	return Identity{}, err
}

// Bearer checks an Authorization header of the Bearer scheme.
func (s *SignIn) Bearer(authorization string) (Identity, error) {
	scheme, text, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Identity{}, errNoPass
	}
	id, _, err := s.valid(strings.TrimSpace(text), people.Token)
	return id, err
}
