package fault

import (
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Panic is a panic that one goroutine has recovered to raise it again in
// another. It has the stack of the first, and nothing of the value: that may
// quote a secret.
type Panic struct {
	Type  string
	Stack string
}

// Recovered describes what recover gave; nil if it gave nothing. It is called
// by the deferred function itself.
func Recovered(value any) *Panic {
	switch v := value.(type) {
	case nil:
		return nil
	case *Panic:
		return v
	}
	return &Panic{fmt.Sprintf("%T", value), string(debug.Stack())}
}

// Recover is deferred by all work that is done for one volume or one class: it
// makes an error of reason Internal out of a panic, so that the process and
// everything else go on. about begins the error, keys go into the log.
func Recover(err *error, log *slog.Logger, about string, keys ...any) {
	p := Recovered(recover())
	if p == nil {
		return
	}
	log.Error("panic: "+about, append(keys, "type", p.Type, "stack", p.Stack)...)
	*err = New(Internal, "%s: the driver has a defect and recovered from it", about).
		WithHint("the stack is in the driver's log on this node; please report it")
}
