package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	// page is how many names are listed at once.
	page = 500
	// tries bounds the attempts to write an object after transient errors.
	tries = 5
	// refusals bounds the errors of objects that are stored.
	refusals   = 20
	firstPause = time.Second
)

// Rewritten is the result of Rewrite.
type Rewritten struct {
	// Patched counts objects that were rewritten, Changed those that others wrote or deleted in the
	// meantime.
	Patched, Changed int
	// Refused counts objects that could not be written. Errors are the first of them.
	Refused int
	Errors  []error
}

// Rewrite sends an empty patch for every object of a resource, at most perSecond. The API server
// rewrites an object that is not under the current key, and leaves any other unchanged. Rewrite
// reads no object's content.
func (c *Cluster) Rewrite(ctx context.Context, k Kind, perSecond int, progress func(Rewritten)) (Rewritten, error) {
	var done Rewritten
	pace := time.NewTicker(time.Second / time.Duration(max(1, perSecond)))
	defer pace.Stop()
	for next := ""; ; {
		var list names
		path := fmt.Sprintf("%s/%s?limit=%d&continue=%s", k.base(), k.Name, page, url.QueryEscape(next))
		err := c.main.do(ctx, call{method: http.MethodGet, path: path, accept: listNames, into: &list})
		if old := (*Refusal)(nil); errors.As(err, &old) && old.Status == http.StatusGone && old.next != "" && old.next != next {
			next = old.next // etcd has compacted the list's revision
			continue
		}
		if err != nil {
			return done, fmt.Errorf("listing %s: %w", k.Resource, err)
		}
		for _, item := range list.Items {
			select {
			case <-ctx.Done():
				return done, fmt.Errorf("rewriting %s: %w", k.Resource, context.Cause(ctx))
			case <-pace.C:
			}
			done.count(c.touch(ctx, k, item.Metadata))
			progress(done)
		}
		if next = list.Metadata.Continue; next == "" {
			return done, nil
		}
	}
}

// names is a PartialObjectMetadataList.
type names struct {
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []struct {
		Metadata objectMeta `json:"metadata"`
	} `json:"items"`
}

var errChanged = errors.New("it was changed or deleted in the meantime")

func (r *Rewritten) count(err error) {
	switch {
	case err == nil:
		r.Patched++
	case errors.Is(err, errChanged):
		r.Changed++
	default:
		if r.Refused++; len(r.Errors) < refusals {
			r.Errors = append(r.Errors, err)
		}
	}
}

// touch patches an object with its own resource version, as the controller of
// StorageVersionMigration does. If the object was written since, it is under the current key
// already.
func (c *Cluster) touch(ctx context.Context, k Kind, m objectMeta) error {
	pause := firstPause
	for try := 1; ; try++ {
		_, err := c.patch(ctx, k, m)
		switch {
		case err == nil:
			return nil
		case Refused(err, http.StatusConflict), Refused(err, http.StatusNotFound):
			return errChanged
		case !isTransient(err) || try == tries:
			return fmt.Errorf("%s/%s: %w", m.Namespace, m.Name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s/%s: %w", m.Namespace, m.Name, context.Cause(ctx))
		case <-time.After(pause):
			pause *= 2
		}
	}
}

// patch changes nothing in an object, and returns its resource version after that.
func (c *Cluster) patch(ctx context.Context, k Kind, m objectMeta) (version string, err error) {
	nothing := map[string]any{
		"apiVersion": k.apiVersion(), "kind": k.Kind,
		"metadata": map[string]string{"resourceVersion": m.ResourceVersion},
	}
	var after struct {
		Metadata objectMeta `json:"metadata"`
	}
	path := k.object(m.Namespace, m.Name) + "?fieldManager=mayfly-kms"
	err = c.main.do(ctx, call{method: http.MethodPatch, path: path, accept: namesOnly, contentType: contentPatch, body: nothing, into: &after})
	return after.Metadata.ResourceVersion, err
}

// isTransient matches errors that may go away: no answer, too many requests, and the server's own
// errors.
func isTransient(err error) bool {
	var r *Refusal
	return !errors.As(err, &r) || r.Status == http.StatusTooManyRequests || r.Status >= http.StatusInternalServerError
}
