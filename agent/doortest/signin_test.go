package doortest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// visitor is a browser as far as cookies go; it follows no redirect.
func visitor(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func status(t *testing.T, resp *http.Response, err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestSignInAtEveryGateway: who signs in at one door is in at the other, a link
// works at one of them only, signing out at one is signing out, and none of it
// needs a node that is gone.
func TestSignInAtEveryGateway(t *testing.T) {
	hall := doortest.Hall(t)
	a := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "mello"})
	b := doortest.Start(t, doortest.Options{Roles: "gateway", Hall: hall, Name: "annex"})
	in := func(c *http.Client, door string, form url.Values) int {
		resp, err := c.PostForm(door+"/login", form)
		return status(t, resp, err)
	}
	settings := func(c *http.Client, door string) int {
		resp, err := c.Get(door + "/user001/api/settings")
		return status(t, resp, err)
	}
	card := url.Values{"name": {"user001"}, "password": {a.Client("user001").Pass}}

	one, two := visitor(t), visitor(t)
	if got := in(one, a.URL, card); got != 303 {
		t.Fatalf("signing in: %d", got)
	}
	if got := in(two, b.URL, card); got != 303 {
		t.Fatalf("signing in at the other door: %d", got)
	}
	// A door learns the other's key from the table, a moment after it has joined.
	doortest.Until(t, 20*time.Second, "each door knows who signed in at the other", func() bool {
		return settings(one, b.URL) == 200 && settings(two, a.URL) == 200
	})
	resp, err := one.PostForm(b.URL+"/logout", nil)
	if got := status(t, resp, err); got != 200 {
		t.Fatalf("signing out: %d", got)
	}
	copied := visitor(t) // somebody had copied the cookie before
	if got := in(copied, a.URL, card); got != 303 {
		t.Fatal(got)
	}
	home, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	cookies := copied.Jar.Cookies(home)
	resp, err = copied.PostForm(b.URL+"/logout", nil)
	if got := status(t, resp, err); got != 200 {
		t.Fatal(got)
	}
	copied.Jar.SetCookies(home, cookies)
	doortest.Until(t, 10*time.Second, "a session that ended at one door has ended at the other", func() bool { return settings(copied, a.URL) == 401 })

	out, err := exec.Command(doortest.Binary(t), "user", "link", "user001", "--json", "--state-dir", b.StateDir).Output()
	var link struct{ URL string }
	if err != nil || json.Unmarshal(out, &link) != nil || !strings.Contains(link.URL, "/login?link=") {
		t.Fatalf("user link: %v %.100s", err, out)
	}
	_, text, _ := strings.Cut(link.URL, "?link=")
	var let, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		door := []string{a.URL, b.URL}[i%2]
		wg.Go(func() {
			resp, err := visitor(t).PostForm(door+"/login", url.Values{"link": {text}})
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			switch resp.StatusCode {
			case 303:
				let.Add(1)
			case 401:
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if let.Load() != 1 || refused.Load() != 19 {
		t.Errorf("a link let %d in and refused %d of 20", let.Load(), refused.Load())
	}

	fresh := visitor(t)
	if got := in(fresh, a.URL, card); got != 303 {
		t.Fatal(got)
	}
	a.Kill() // the only one that votes: nothing can be changed now
	if got := settings(fresh, b.URL); got != 200 {
		t.Errorf("a session of a node that is gone: %d", got)
	}
	if got := in(visitor(t), b.URL, card); got != 303 {
		t.Errorf("signing in without a leader: %d", got)
	}
	fmt.Printf("signin gateways=2 link_let=%d link_refused=%d\n", let.Load(), refused.Load())
}
