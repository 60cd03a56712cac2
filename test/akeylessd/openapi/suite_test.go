package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/akeylessd/suite"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// watcher validates every exchange that passes.
type watcher struct {
	router routers.Router

	mu       sync.Mutex
	seen     map[string]int // by path and status
	problems []string
}

func newWatcher(t *testing.T) *watcher {
	t.Helper()
	file := testkit.Value(locate(t.Context()))(t)
	router := testkit.Value(load(t.Context(), file, "http://akeyless.test"))(t)
	return &watcher{router: router, seen: map[string]int{}}
}

// wrap checks each exchange. Answers of a disturbance are not Akeyless', and have a header that
// says so.
func (w *watcher) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.problem("reading a request: %v", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		in := w.request(r, body)
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		w.answer(in, answer)
		for name, values := range answer.Header() {
			out.Header()[name] = values
		}
		out.WriteHeader(answer.Code)
		_, _ = out.Write(answer.Body.Bytes())
	})
}

// request checks a request, and returns the input for checking its answer; nil if there is none.
func (w *watcher) request(r *http.Request, body []byte) *openapi3filter.RequestValidationInput {
	request, err := http.NewRequest(r.Method, "http://akeyless.test"+r.URL.Path, bytes.NewReader(body)) //nolint:noctx // is never sent
	if err != nil {
		w.problem("%v", err)
		return nil
	}
	request.Header = r.Header.Clone()
	route, params, err := w.router.FindRoute(request)
	if err != nil {
		w.problem("%s: %v", r.URL.Path, err)
		return nil
	}
	in := &openapi3filter.RequestValidationInput{Request: request, PathParams: params, Route: route, Options: &openapi3filter.Options{IncludeResponseStatus: true}}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
		w.problem("request to %s: %v", r.URL.Path, err)
	}
	if err := known(body, route); err != nil {
		w.problem("request to %s: %v", r.URL.Path, err)
	}
	return in
}

func (w *watcher) answer(in *openapi3filter.RequestValidationInput, answer *httptest.ResponseRecorder) {
	if in == nil || answer.Header().Get(akeylessd.Disturbed) != "" {
		return
	}
	path := in.Route.Path
	w.saw(fmt.Sprintf("%s %d", path, answer.Code))
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: answer.Code, Header: answer.Header(),
		Body: io.NopCloser(bytes.NewReader(answer.Body.Bytes())), Options: in.Options,
	})
	if err != nil {
		w.problem("answer %d of %s: %v", answer.Code, path, err)
	}
}

// known finds fields that the description does not have. Its schemas are open, so the validator
// accepts any.
func known(body []byte, route *routers.Route) error {
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return err
	}
	schema := route.Operation.RequestBody.Value.Content["application/json"].Schema.Value
	for name := range fields {
		if schema.Properties[name] == nil {
			return fmt.Errorf("field %q is not in the description", name)
		}
	}
	return nil
}

func (w *watcher) saw(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

func (w *watcher) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// TestSuiteAgainstDescription runs everything that the provider does through the wire, and checks
// every request and answer against the description.
func TestSuiteAgainstDescription(t *testing.T) {
	w := newWatcher(t)
	suite.Run(t, suite.Options{Wrap: w.wrap})
	for _, p := range w.problems {
		t.Error(p)
	}
	for _, path := range Paths() {
		if w.seen[path+" 200"]+w.seen[path+" 201"] == 0 {
			t.Errorf("no good answer of %s was seen", path)
		}
	}
	t.Logf("exchanges: %v", w.seen)
}

// TestWatcherSees proves that the watcher finds what does not match the description.
func TestWatcherSees(t *testing.T) {
	w := newWatcher(t)
	for name, c := range map[string]struct {
		path, request, answer string
		status                int
		want                  string
	}{
		"missing field":    {"/describe-item", `{"token":"t-x"}`, `{}`, 200, `"name" is missing`},
		"unknown field":    {"/describe-item", `{"name":"/a","nmae":"/a"}`, `{}`, 200, `"nmae" is not in the description`},
		"wrong type":       {"/get-secret-value", `{"names":"/a"}`, `{}`, 200, "names"},
		"answer of a list": {"/get-secret-value", `{"names":["/a"]}`, `[]`, 200, "answer 200"},
		"wrong field type": {"/auth", `{"access-id":"p-1"}`, `{"token":5}`, 200, "token"},
		"unknown path":     {"/delete-everything", `{}`, `{}`, 200, "/delete-everything"},
	} {
		t.Run(name, func(t *testing.T) {
			w.problems = nil
			r := httptest.NewRequest(http.MethodPost, c.path, strings.NewReader(c.request))
			r.Header.Set("Content-Type", "application/json")
			answer := httptest.NewRecorder()
			answer.Header().Set("Content-Type", "application/json")
			answer.WriteHeader(c.status)
			_, _ = answer.WriteString(c.answer)
			w.answer(w.request(r, []byte(c.request)), answer)
			if len(w.problems) != 1 || !strings.Contains(w.problems[0], c.want) {
				t.Errorf("problems %q, want one with %q", w.problems, c.want)
			}
		})
	}
}
