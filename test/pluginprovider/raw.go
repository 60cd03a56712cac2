package pluginprovider

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Raw is a server that is broken below the protocol.
type Raw struct {
	listener *listener
	calls    atomic.Int64
	wg       sync.WaitGroup
}

// Calls is how many came in so far, of the kinds that speak HTTP/2.
func (r *Raw) Calls() int { return int(r.calls.Load()) }

// StartRaw serves <dir>/<name>.sock in a broken way, one of RawKinds.
func StartRaw(dir, name, kind string) (*Raw, error) {
	r := &Raw{}
	talk, ok := rawKinds(&r.calls)[kind]
	if !ok {
		return nil, fmt.Errorf("%q is not one of %q", kind, RawKinds())
	}
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		return nil, err
	}
	r.listener = &listener{Listener: l}
	r.wg.Go(func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() {
				defer func() { _ = conn.Close() }()
				talk(conn)
			})
		}
	})
	return r, nil
}

// Stop stops the server and removes the socket.
func (r *Raw) Stop() {
	_ = r.listener.Close()
	r.listener.cut()
	r.wg.Wait()
}

// RawKinds are the ways to be broken.
func RawKinds() []string { return slices.Sorted(maps.Keys(rawKinds(nil))) }

// message is the header of a message in a stream: a flag and the length.
func message(flag byte, length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, length), body...)
}

func rawKinds(calls *atomic.Int64) map[string]func(net.Conn) {
	return map[string]func(net.Conn){
		// Below HTTP/2.
		"silent":  drain,
		"slam":    func(net.Conn) {},
		"garbage": func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("\x00\xff no provider here \n", 1000)) },
		"http1":   func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		// HTTP/2, and broken inside it.
		"badFrames": answer(calls, func(s *stream) { _, _ = s.conn.Write(bytes.Repeat([]byte{0xff}, 4096)) }),
		"goAway":    answer(calls, func(s *stream) { _ = s.WriteGoAway(0, http2.ErrCodeInternal, []byte("bye")) }),
		"reset":     answer(calls, func(s *stream) { _ = s.WriteRSTStream(s.id, http2.ErrCodeInternal) }),
		"http404":   answer(calls, func(s *stream) { s.headers(true, ":status", "404") }),
		// gRPC, and broken inside it.
		"truncated":  body(calls, message(0, 1000, "ten bytes."), true),
		"stalled":    body(calls, message(0, 1000, "ten bytes."), false),
		"oversize":   body(calls, message(0, 1<<31-1, "ten bytes."), false),
		"badProto":   body(calls, message(0, 6, "\xff\xff\xff\xff\xff\xff"), false),
		"compressed": body(calls, message(1, 4, "abcd"), false),
		"noAnswer": answer(calls, func(s *stream) {
			s.headers(false, ":status", "200", "content-type", "application/grpc")
			s.headers(true, "grpc-status", "0")
		}),
		"noStatus": answer(calls, func(s *stream) {
			s.headers(false, ":status", "200", "content-type", "application/grpc")
			_ = s.WriteData(s.id, true, message(0, 0, ""))
		}),
		"longHeaders": answer(calls, func(s *stream) {
			s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", "2", "grpc-message", strings.Repeat("x", 1<<20))
		}),
	}
}

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// stream is a call that came in.
type stream struct {
	*http2.Framer
	conn net.Conn
	id   uint32
}

// headers writes one block of headers, in as many frames as needed.
func (s *stream) headers(end bool, pairs ...string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	const most = 16 << 10
	first := block.Next(most)
	_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: first, EndStream: end, EndHeaders: block.Len() == 0})
	for block.Len() > 0 {
		part := block.Next(most)
		if s.WriteContinuation(s.id, block.Len() == 0, part) != nil {
			return
		}
	}
}

// body answers each call with good headers and these bytes, and then disconnects, reports success,
// or sends nothing more.
func body(calls *atomic.Int64, data []byte, leave bool) func(net.Conn) {
	return answer(calls, func(s *stream) {
		s.headers(false, ":status", "200", "content-type", "application/grpc")
		_ = s.WriteData(s.id, false, data)
		if leave {
			_ = s.conn.Close()
		} else if int(binary.BigEndian.Uint32(data[1:])) == len(data)-5 {
			s.headers(true, "grpc-status", "0")
		}
	})
}

// answer speaks HTTP/2 as far as the first headers of a call.
func answer(calls *atomic.Int64, f func(s *stream)) func(net.Conn) {
	return func(c net.Conn) {
		framer := http2.NewFramer(c, c)
		if framer.WriteSettings() != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = framer.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				calls.Add(1)
				f(&stream{framer, c, frame.StreamID})
			}
		}
	}
}
