package gateway

import (
	"container/list"
	"sync"

	"github.com/ahelme/comfyume/roles/gateway/stitch"
)

// keepPieces bounds the compressed workflows that are kept for answers, in
// bytes: some thousands of usual ones.
const keepPieces = 32 << 20

// pieces keeps compressed parts of answers: a page asks for its whole queue and
// history after every event, and each of them holds a whole workflow.
type pieces struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List // of keptPiece, newest first
	bytes int
}

type keptPiece struct {
	key   string
	piece *stitch.Piece
}

func newPieces() *pieces { return &pieces{byKey: map[string]*list.Element{}, order: list.New()} }

// get returns the piece of a key, made by text if it is not kept. A key names
// one text for good.
func (p *pieces) get(key string, text func() ([]byte, error)) (*stitch.Piece, error) {
	p.mu.Lock()
	if el, ok := p.byKey[key]; ok {
		p.order.MoveToFront(el)
		p.mu.Unlock()
		return el.Value.(keptPiece).piece, nil
	}
	p.mu.Unlock()
	raw, err := text()
	if err != nil {
		return nil, err
	}
	made, err := stitch.Pack(raw)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.byKey[key]; ok {
		return made, nil
	}
	p.byKey[key] = p.order.PushFront(keptPiece{key, made})
	p.bytes += made.Cost() + len(key)
	for p.bytes > keepPieces && p.order.Len() > 1 {
		old := p.order.Remove(p.order.Back()).(keptPiece)
		delete(p.byKey, old.key)
		p.bytes -= old.piece.Cost() + len(old.key)
	}
	return made, nil
}
