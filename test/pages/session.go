package pages

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Session is a reader's shell: bash, which runs the blocks of a page one after the other and keeps
// variables and the working directory between them.
type Session struct {
	env   []string
	state string
}

// NewSession begins in the directory work. scratch is an empty directory for
// the session's own files. env is all of bash's environment.
func NewSession(scratch, work string, env []string) (*Session, error) {
	s := &Session{env: env, state: filepath.Join(scratch, "state")}
	if err := os.WriteFile(s.state, fmt.Appendf(nil, "cd %q\n", work), 0o600); err != nil {
		return nil, err
	}
	return s, nil
}

// The first failed command ends a block. Every variable that a block sets is exported, and so kept.
const script = `set -aeo pipefail
. "$1"
eval "$2"
{ export -p; printf 'cd %q\n' "$PWD"; } >"$1"
`

// Run runs a block and returns what it printed. It ends with ctx.
func (s *Session) Run(ctx context.Context, text string) (string, error) {
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", script, "bash", s.state, text)
	cmd.Env = s.env
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return out.String(), err
}
