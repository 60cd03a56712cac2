package scan

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxPage bounds one answer of etcd in bytes, and so the memory of a scan. A page that is
	// larger is read again in halves.
	maxPage       = 16 << 20
	firstPage     = 128 // values
	largestPage   = 1024
	growBelow     = maxPage / 8
	pageTimeout   = 30 * time.Second
	connectWithin = 5 * time.Second
)

// EtcdConfig says how to reach etcd. The fields are those of etcdctl.
type EtcdConfig struct {
	// Endpoints are URLs. "unix:///path" works for k3s's kine.sock too.
	Endpoints []string
	// CACert, Cert and Key are files. Without them the connection is plain.
	CACert, Cert, Key string
}

// Etcd is a live etcd, or a server with its protocol.
type Etcd struct {
	client   *clientv3.Client
	where    string
	revision int64
}

// Open connects to etcd. It fails if no endpoint answers.
func Open(ctx context.Context, config EtcdConfig) (*Etcd, error) {
	where := strings.Join(config.Endpoints, ",")
	var secure *tls.Config
	if config.CACert != "" || config.Cert != "" || config.Key != "" {
		var err error
		info := transport.TLSInfo{TrustedCAFile: config.CACert, CertFile: config.Cert, KeyFile: config.Key}
		if secure, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("reading the certificates for etcd: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: config.Endpoints, TLS: secure, DialTimeout: connectWithin,
		MaxCallRecvMsgSize: maxPage, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd at %s: %w", where, err)
	}
	e := &Etcd{client: client, where: where}
	if err := e.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to %s: %w", e, err), client.Close())
	}
	return e, nil
}

// probe reads the key that the API server's own health check reads, because New does not connect
// yet.
func (e *Etcd) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	_, err := e.client.Get(ctx, "health")
	return err
}

// Close closes the connection.
func (e *Etcd) Close() error { return e.client.Close() }

// String names the etcd.
func (e *Etcd) String() string { return "etcd at " + e.where }

// Revision is etcd's revision at the scan's start.
func (e *Etcd) Revision() int64 { return e.revision }

// Each calls visit with all keys below the prefixes and their values. All are of one revision,
// unless etcd compacts it during the scan; the rest is then of a newer one.
func (e *Etcd) Each(ctx context.Context, prefixes []string, visit func(key string, value []byte)) error {
	revision := int64(0)
	for _, prefix := range prefixes {
		p := pages{client: e.client, key: prefix, end: clientv3.GetPrefixRangeEnd(prefix), limit: firstPage, revision: revision}
		for !p.done {
			answer, err := p.next(ctx)
			if err != nil {
				return fmt.Errorf("reading %s of %s: %w", prefix, e, err)
			}
			for _, kv := range answer.Kvs {
				visit(string(kv.Key), kv.Value)
			}
		}
		if revision = p.revision; e.revision == 0 {
			e.revision = p.first
		}
	}
	return nil
}

// pages reads a range page by page, in the way of the API server, because kine supports nothing
// else.
type pages struct {
	client          clientv3.KV
	key, end        string
	limit           int64
	revision, first int64
	done            bool
}

func (p *pages) next(ctx context.Context) (*clientv3.GetResponse, error) {
	for {
		answer, err := p.ask(ctx)
		switch {
		case err == nil:
			p.advance(answer)
			return answer, nil
		case errors.Is(err, rpctypes.ErrCompacted) && p.revision != 0:
			p.revision = 0
		case isTooLarge(err) && p.limit > 1:
			p.limit /= 2
		case isTooLarge(err):
			return nil, fmt.Errorf("the value after %q has over %d MiB: %w", p.key, maxPage>>20, err)
		default:
			return nil, err
		}
	}
}

func (p *pages) ask(ctx context.Context) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pageTimeout, fmt.Errorf("no answer within %s", pageTimeout))
	defer cancel()
	answer, err := p.client.Get(ctx, p.key, clientv3.WithRange(p.end), clientv3.WithLimit(p.limit), clientv3.WithRev(p.revision))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	return answer, err
}

// advance continues after the last key, and with larger pages while values are small.
func (p *pages) advance(answer *clientv3.GetResponse) {
	if p.revision == 0 {
		p.revision = answer.Header.Revision
	}
	if p.first == 0 {
		p.first = p.revision
	}
	p.done = !answer.More || len(answer.Kvs) == 0
	if p.done {
		return
	}
	size := 0
	for _, kv := range answer.Kvs {
		size += len(kv.Key) + len(kv.Value)
	}
	if size < growBelow {
		p.limit = min(2*p.limit, largestPage)
	}
	p.key = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
}

// isTooLarge distinguishes gRPC's error for a message beyond the limit from etcd's own errors with
// the same code.
func isTooLarge(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max")
}
