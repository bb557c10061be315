package gateway_test

import "testing"

func TestSmoke(t *testing.T) {
	w := open(t, options{visited: true})
	t.Log(w.get(ann, "/user001/").want(t, 200).body)
	t.Log(w.get(ann, "/api/object_info").want(t, 200).body)
	w.submit(ann, "c1", "p1")
	s := w.assign(ann, "p1").begin()
	s.done("a.png")
	t.Log(w.get(ann, "/history").want(t, 200).body)
	t.Log(w.get(ann, "/api/jobs").want(t, 200).body)
	t.Log(w.logged.String())
}
