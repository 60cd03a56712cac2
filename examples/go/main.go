// Reload is a web server that uses a user name and a password from a volume of
// Mayfly, and uses the new ones as soon as they are there.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// credentials are both from one payload of the volume: never the user name of
// one and the password of the next.
type credentials struct {
	payload            string // what ..data led to
	username, password string
}

// read opens the payload once and reads both files through it. The driver
// replaces the link ..data by one rename, and keeps the payload before it.
func read(dir string) (*credentials, error) {
	link := filepath.Join(dir, "..data")
	payload, err := os.Readlink(link)
	if err != nil {
		return nil, err
	}
	c := &credentials{payload: payload}
	for name, value := range map[string]*string{"username": &c.username, "password": &c.password} {
		text, err := os.ReadFile(filepath.Join(dir, payload, name))
		if err != nil {
			return nil, err
		}
		*value = strings.TrimSpace(string(text))
	}
	return c, nil
}

// watch reads again when ..data leads elsewhere. A readlink costs nothing, and
// works where inotify does not. A failed read keeps what is there.
func watch(ctx context.Context, dir string, every time.Duration, current *atomic.Pointer[credentials]) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if payload, err := os.Readlink(filepath.Join(dir, "..data")); err == nil && payload == current.Load().payload {
			continue
		}
		next, err := read(dir)
		if err != nil {
			log.Printf("reading the secrets: %v", err)
			continue
		}
		current.Store(next)
		log.Printf("using the credentials of %s", next.username)
	}
}

func run() error {
	dir := flag.String("secrets", "/mnt/secrets", "`directory` where the volume is mounted")
	address := flag.String("address", ":8080", "`address` to serve")
	every := flag.Duration("every", time.Second, "`time` between two looks at the volume")
	flag.Parse()

	first, err := read(*dir)
	if err != nil {
		return err
	}
	var current atomic.Pointer[credentials]
	current.Store(first)
	log.Printf("using the credentials of %s", first.username)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go watch(ctx, *dir, *every, &current)

	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	log.Printf("serving http://%s", listener.Addr())
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		// An application would log in to its database here, with c.password.
		c := current.Load()
		fmt.Fprintf(w, "%s, with a password of %d letters\n", c.username, len(c.password))
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
