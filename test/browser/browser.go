// Package browser drives a real Chromium, without a window, over its debugging
// pipe, so that tests see a page as people do.
package browser

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// timeout bounds one command to the browser.
const timeout = time.Minute

// Browser is a running Chromium with one page.
type Browser struct {
	t       testing.TB
	to      *os.File
	session string

	mu       sync.Mutex
	last     int
	waiting  map[int]chan message
	loaded   chan struct{}
	problems []string
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Session   string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Exception *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start runs Chromium until the test ends. It skips the test if Chromium is not installed.
func Start(t testing.TB) *Browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("Chromium is not installed: on Debian, apt-get install chromium")
	}
	read, to, err := os.Pipe()
	testkit.Must(t, err)
	from, write, err := os.Pipe()
	testkit.Must(t, err)
	profile := testkit.Value(os.MkdirTemp("", "browser"))(t)
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--user-data-dir="+profile, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	cmd.ExtraFiles = []*os.File{read, write}
	testkit.Must(t, cmd.Start())
	_ = read.Close()
	_ = write.Close()
	b := &Browser{t: t, to: to, waiting: map[int]chan message{}, loaded: make(chan struct{}, 1)}
	go b.receive(from)
	t.Cleanup(func() {
		_ = to.Close()
		stop()
		_ = cmd.Wait()
		_ = from.Close()
		_ = os.RemoveAll(profile)
	})
	b.attach()
	return b
}

func (b *Browser) attach() {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
}

// Open loads a page in a window of a width, in a colour scheme: light or dark.
func (b *Browser) Open(url string, width int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	select {
	case <-b.loaded:
	default:
	}
	var went struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &went)
	if went.ErrorText != "" {
		b.t.Fatalf("opening %s: %s", url, went.ErrorText)
	}
	select {
	case <-b.loaded:
	case <-time.After(timeout):
		b.t.Fatalf("opening %s: not loaded after %s", url, timeout)
	}
}

// Eval evaluates an expression in the page, which must return a string.
func (b *Browser) Eval(expression string) string {
	b.t.Helper()
	var out struct {
		Result struct {
			Value any `json:"value"`
		}
		ExceptionDetails *struct{ Text string }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")"}, &out)
	if out.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, out.ExceptionDetails.Text)
	}
	return fmt.Sprint(out.Result.Value)
}

// Screenshot is a PNG of the whole page.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	var out struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &out)
	return testkit.Value(base64.StdEncoding.DecodeString(out.Data))(b.t)
}

// Problems are the browser's complaints and the pages' console messages since the start.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.problems...)
}

// call sends a command and reads its result.
func (b *Browser) call(method string, params, result any) {
	b.t.Helper()
	answer, err := b.exchange(method, params)
	if err != nil {
		b.t.Fatalf("Chromium: %s: %v", method, err)
	}
	if result != nil {
		testkit.Must(b.t, json.Unmarshal(answer, result))
	}
}

func (b *Browser) exchange(method string, params any) (json.RawMessage, error) {
	encoded, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	m := message{Method: method, Params: encoded}
	if !strings.HasPrefix(method, "Target.") {
		m.Session = b.session
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	b.last++
	m.ID = b.last
	b.waiting[m.ID] = answer
	line, err := json.Marshal(m)
	if err == nil {
		_, err = b.to.Write(append(line, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case got, ok := <-answer:
		switch {
		case !ok:
			return nil, errors.New("it has ended")
		case got.Exception != nil:
			return nil, errors.New(got.Exception.Message)
		}
		return got.Result, nil
	case <-time.After(timeout):
		return nil, fmt.Errorf("no answer after %s", timeout)
	}
}

// receive reads the browser's messages until it ends.
func (b *Browser) receive(from *os.File) {
	for r := bufio.NewReader(from); ; {
		line, err := r.ReadBytes(0)
		if err != nil {
			break
		}
		var m message
		if json.Unmarshal(line[:len(line)-1], &m) == nil {
			b.take(m)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, answer := range b.waiting {
		close(answer)
		delete(b.waiting, id)
	}
}

func (b *Browser) take(m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case m.ID != 0:
		if answer := b.waiting[m.ID]; answer != nil {
			answer <- m
			delete(b.waiting, m.ID)
		}
	case m.Method == "Page.loadEventFired":
		select {
		case b.loaded <- struct{}{}:
		default:
		}
	case m.Method == "Log.entryAdded", m.Method == "Runtime.consoleAPICalled", m.Method == "Runtime.exceptionThrown", m.Method == "Page.javascriptDialogOpening":
		b.problems = append(b.problems, m.Method+" "+string(m.Params))
	}
}
