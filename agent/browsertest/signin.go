package browsertest

import (
	"context"
	"fmt"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// FillSignIn fills in the door's sign-in page, if that is what is open, and goes where it leads.
func (p *Page) FillSignIn() {
	p.t.Helper()
	if p.opts.User == "" || !look[bool](p, "look for the sign-in page", `!!document.querySelector('form[action="/login"] input[name=password]')`) {
		return
	}
	evaluate[bool](p, "fill in the sign-in page", fmt.Sprintf(`(() => {
		const fields = document.querySelector('form[action="/login"]').elements;
		fields.name.value = %q;
		fields.password.value = %q;
		return true;
	})()`, p.opts.User, p.opts.Password))
	p.Submit()
}

// Submit presses the button of the page's only form and waits until another page is there.
func (p *Page) Submit() {
	p.t.Helper()
	evaluate[bool](p, "press the form's button", `(window.pressed = true, document.querySelector('form button').click(), true)`)
	p.until("the page behind the form", func() bool {
		ctx, stop := context.WithTimeout(p.ctx, patience)
		defer stop()
		// Between two pages there is nothing to ask, and that is no failure.
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`!window.pressed && document.readyState !== 'loading' && !!document.body`))
		return err == nil && there
	})
}

// signIn answers the browser's sign-in question as a person would, once per document. From then on the browser itself sends
// the credentials with page, fetch, image and web socket; a header added by the test would hide a door that does not ask.
func (p *Page) signIn() {
	p.t.Helper()
	paused := chromedp.Events(p.ctx, fetch.RequestPaused)
	asked := chromedp.Events(p.ctx, fetch.AuthRequired)
	// Both loops end with the page's context; the cleanup of Open ends that.
	go func() {
		for ev, err := range paused {
			if err != nil {
				return
			}
			_, _ = chromedp.Call(p.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: ev.RequestID})
		}
	}()
	go func() {
		answered := map[fetch.RequestID]bool{}
		for ev, err := range asked {
			if err != nil {
				return
			}
			answer := &fetch.AuthChallengeResponse{
				Response: fetch.AuthChallengeResponseResponseProvideCredentials,
				Username: p.opts.User, Password: p.opts.Password,
			}
			// A second question for the same request means that the door refused: repeating would never end.
			if answered[ev.RequestID] {
				answer = &fetch.AuthChallengeResponse{Response: fetch.AuthChallengeResponseResponseCancelAuth}
			}
			answered[ev.RequestID] = true
			_, _ = chromedp.Call(p.ctx, fetch.ContinueWithAuth,
				fetch.ContinueWithAuthParams{RequestID: ev.RequestID, AuthChallengeResponse: answer})
		}
	}()
	handle := true
	_, err := chromedp.Call(p.ctx, fetch.Enable, fetch.EnableParams{
		Patterns:           []*fetch.RequestPattern{{URLPattern: "*", ResourceType: network.ResourceTypeDocument}},
		HandleAuthRequests: &handle,
	})
	if err != nil {
		p.t.Fatalf("prepare the sign-in: %v", err)
	}
}
