package kmsrig

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Gate is a TCP proxy before Vault that can be shut.
type Gate struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	state gateState
	conns map[net.Conn]bool
}

type gateState int

const (
	gateOpen gateState = iota
	// gateShut closes connections at once, as a machine does whose Vault is down.
	gateShut
	// gateDead accepts connections and never answers, as after a network failure.
	gateDead
)

// NewGate makes an open gate before the address of an http or https URL.
func NewGate(t testing.TB, url string) *Gate {
	t.Helper()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	_, target, _ := strings.Cut(url, "://")
	g := &Gate{listener: l, target: target, conns: map[net.Conn]bool{}}
	go g.accept()
	t.Cleanup(func() {
		_ = l.Close()
		g.set(gateShut)
	})
	return g
}

// URL is where the gate listens, with the scheme of Vault's URL.
func (g *Gate) URL(scheme string) string { return scheme + "://" + g.listener.Addr().String() }

// Shut closes all connections, and accepts no others.
func (g *Gate) Shut() { g.set(gateShut) }

// Dead lets all connections hang, and new ones too.
func (g *Gate) Dead() { g.set(gateDead) }

// Open undoes Shut and Dead.
func (g *Gate) Open() { g.set(gateOpen) }

func (g *Gate) set(s gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = s
	if s == gateDead {
		return // what is under way is held up in copy
	}
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

func (g *Gate) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		state := g.state
		if state != gateShut {
			g.conns[c] = true
		}
		g.mu.Unlock()
		switch state {
		case gateShut:
			_ = c.Close()
		case gateOpen:
			go g.serve(c)
		}
	}
}

func (g *Gate) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	g.mu.Lock()
	g.conns[to] = true
	g.mu.Unlock()
	done := make(chan struct{}, 2)
	go func() { g.copy(to, c); done <- struct{}{} }()
	go func() { g.copy(c, to); done <- struct{}{} }()
	<-done
}

// copy forwards the data, unless the gate is dead.
func (g *Gate) copy(to io.Writer, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		dead := g.state == gateDead
		g.mu.Unlock()
		if n > 0 && !dead {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
