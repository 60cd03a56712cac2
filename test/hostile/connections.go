package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idlePerPort is how many connections the tenant's pods open to each port.
	idlePerPort = 3000
	// mostIdle is how many of them a port may keep open.
	mostIdle = 512
)

// nodeAttacks are on the ports that the driver has in the cluster's network.
func nodeAttacks() []attack {
	return []attack{{
		name: "idle-connections", does: fmt.Sprintf("%d connections each to the ports of health and metrics, which ask once and stay", idlePerPort),
		run: idleConnections,
		judge: func(s *scene) verdict {
			health, metrics := s.count(s.healthAddr), s.count(s.metricsAddr)
			return throughIf(max(health, metrics) > mostIdle, "%d and %d were open and idle at once", health, metrics)
		},
	}}
}

// idleConnections opens connections, and opens those again that were closed.
func idleConnections(ctx context.Context, s *scene) {
	var ports sync.WaitGroup
	for addr, path := range map[string]string{s.healthAddr: "/healthz", s.metricsAddr: "/metrics"} {
		ports.Go(func() {
			var open []net.Conn
			most := 0
			defer func() {
				s.add(addr, int64(most))
				for _, c := range open {
					_ = c.Close()
				}
			}()
			for ctx.Err() == nil {
				for len(open) < idlePerPort && ctx.Err() == nil {
					c, err := connect(ctx, addr, path)
					if err != nil {
						break
					}
					open = append(open, c)
				}
				pause(ctx, time.Second)
				open = alive(open)
				most = max(most, len(open))
			}
		})
	}
	ports.Wait()
}

// connect opens a connection and asks once.
func connect(ctx context.Context, addr, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_ = answer.Body.Close()
	return c, nil
}

// alive returns the connections that the driver has not closed, and closes the rest.
func alive(open []net.Conn) []net.Conn {
	var left []net.Conn
	for _, c := range open {
		if isOpen(c) {
			left = append(left, c)
			continue
		}
		_ = c.Close()
	}
	return left
}

// isOpen reads what is there and checks for the end.
func isOpen(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	buffer := make([]byte, 16<<10)
	err = raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
			if err != nil || n == 0 {
				open = errors.Is(err, unix.EAGAIN)
				return
			}
		}
	})
	return err == nil && open
}
