package pluginprovider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// answering makes an answer of a good one.
type answering func(s *Server, ctx context.Context, m *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error)

// Answers are the possible values of the parameter answer.
func Answers() []string { return slices.Sorted(maps.Keys(answers())) }

func (s *Server) shape(ctx context.Context, m *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	word := a["answer"]
	if word == "" {
		return good, nil
	}
	f, ok := answers()[word]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "answer is %q, must be one of %q", word, Answers())
	}
	return f(s, ctx, m, a, good)
}

// change is for answers that are the good one with one thing wrong.
func change(f func(a map[string]string, r *v1alpha1.MountResponse)) answering {
	return func(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
		f(a, good)
		return good, nil
	}
}

func number(text string, def int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return def
}

func answers() map[string]answering {
	return map[string]answering{
		"noFiles":    change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files = nil }),
		"noVersions": change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.ObjectVersion = nil }),
		"nothing":    change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files, r.ObjectVersion = nil, nil }),
		"noID": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			r.ObjectVersion = append(r.ObjectVersion, &v1alpha1.ObjectVersion{Version: "1"})
		}),
		"doubleID": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			r.ObjectVersion = append(r.ObjectVersion, r.ObjectVersion...)
		}),
		// The versions of Conjur's provider are all "1", for ever.
		"sameVersion": change(func(_ map[string]string, r *v1alpha1.MountResponse) {
			for _, v := range r.ObjectVersion {
				v.Version = "1"
			}
		}),
		"errorCode": change(func(a map[string]string, r *v1alpha1.MountResponse) { r.Error = &v1alpha1.Error{Code: a["code"]} }),
		"path": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			r.Files = append(r.Files, &v1alpha1.File{Path: a["path"], Mode: 0o644, Contents: []byte("x")})
		}),
		"duplicate": change(func(_ map[string]string, r *v1alpha1.MountResponse) { r.Files = append(r.Files, r.Files[0]) }),
		"mode": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			for _, f := range r.Files {
				f.Mode = int32(number(a["mode"], 0))
			}
		}),
		"huge": change(func(a map[string]string, r *v1alpha1.MountResponse) {
			r.Files[0].Contents = make([]byte, number(a["size"], 5<<20))
		}),
		"status": statusAnswer,
		"echo":   echoAnswer,
		// Go providers return plain errors, which gRPC calls Unknown.
		"plainError":   plainAnswer,
		"writesItself": writesItself,
		"readsBack":    readsBack,
		"hang":         hangAnswer,
		"die":          dieAnswer,
	}
}

// statusAnswer refuses with the gRPC code of that number.
func statusAnswer(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	return nil, status.Error(codes.Code(number(a["code"], 2)), a["text"])
}

// echoAnswer repeats all that it was sent, as careless providers do, once or
// (text: request) quoted over and over.
func echoAnswer(_ *Server, _ context.Context, m *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	code := codes.Code(number(a["code"], 2))
	if a["text"] == "request" {
		return nil, status.Errorf(code, "could not find it in %s; %q", m.GetSecrets(), "secrets:"+strconv.Quote(m.GetSecrets()))
	}
	return nil, status.Errorf(code, "could not find clientid in %v; attributes %s; secrets %s", a, m.GetAttributes(), m.GetSecrets())
}

func plainAnswer(_ *Server, _ context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	return nil, fmt.Errorf("failed to fetch: %s", a["text"])
}

// hangAnswer waits until the caller's deadline, or until the parameter early before that.
func hangAnswer(_ *Server, ctx context.Context, _ *v1alpha1.MountRequest, a map[string]string, _ *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	early, err := time.ParseDuration(a["early"])
	if deadline, ok := ctx.Deadline(); ok && err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-early))
		defer cancel()
	}
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func dieAnswer(s *Server, _ context.Context, _ *v1alpha1.MountRequest, _ map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	if s.Die != nil {
		s.Die()
	}
	s.Cut()
	return good, nil
}
