package gateway

import (
	"errors"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
)

// problemKey holds the request's error for its log line; correlationKey the id
// that the page shows.
const (
	problemKey     = "problem"
	correlationKey = "correlation"
	routeKey       = "route" // the pattern that was found
)

// fail answers with ComfyUI's own error shape: the page shows "message:
// details". Every such answer carries an id that finds its line in the log and
// on the dashboard, but for those to who is not signed in.
func fail(ctx *fasthttp.RequestCtx, err error) {
	var p *comfy.PromptError
	if !errors.As(err, &p) {
		code := cluster.CodeOf(err)
		p = comfy.NewPromptError(string(code), cluster.MessageOf(err), "").WithStatus(code.Status())
	}
	if p.HTTPStatus() != fasthttp.StatusUnauthorized {
		id := uuid.NewString()[:comfy.ErrorIDLen]
		ctx.SetUserValue(correlationKey, id)
		p = p.WithErrorID(id)
	}
	ctx.SetUserValue(problemKey, err)
	writeJSON(ctx, p.HTTPStatus(), p.Encode())
}

func writeJSON(ctx *fasthttp.RequestCtx, status int, body []byte) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json; charset=utf-8")
	ctx.Response.SetBodyRaw(body)
}

// plain answers as aiohttp does for what it does not know.
func plain(ctx *fasthttp.RequestCtx, status int, text string) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(text)
}

// empty answers a status without a body, as ComfyUI does for bare errors.
func empty(ctx *fasthttp.RequestCtx, status int) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/octet-stream")
}

// redirect keeps the location relative to the host: no proxy's name is guessed.
func redirect(ctx *fasthttp.RequestCtx, to string, status int) {
	ctx.Response.Header.Set(fasthttp.HeaderLocation, to)
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
}

func isPromptError(err error) bool {
	var p *comfy.PromptError
	return errors.As(err, &p)
}

// promptErrorType is what may be logged of a refused workflow.
func promptErrorType(err error) string {
	var p *comfy.PromptError
	if errors.As(err, &p) {
		return p.Detail.Type
	}
	return err.Error()
}

// promptErrorMessage is what the instructor may read of it: the sentence and
// which kinds of node are concerned, never the values.
func promptErrorMessage(err error) string {
	var p *comfy.PromptError
	if !errors.As(err, &p) {
		return ""
	}
	text := p.Detail.Message
	for id, n := range p.Nodes {
		for _, e := range n.Errors {
			text += "; node " + id + " (" + n.ClassType + "): " + e.Message
		}
	}
	return text
}
