package fault

import (
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Panic is a panic that one goroutine recovered, to raise it again in another. It has the stack of
// the first goroutine. It has nothing of the value, which may quote a secret.
type Panic struct {
	Type  string
	Stack string
}

// Recovered describes the result of recover; nil if that is nil. The deferred function itself must
// call it.
func Recovered(value any) *Panic {
	switch v := value.(type) {
	case nil:
		return nil
	case *Panic:
		return v
	}
	return &Panic{fmt.Sprintf("%T", value), string(debug.Stack())}
}

// Recover is deferred around the work for one volume or one class. It turns a panic into an error
// of reason Internal, so that the process and all other work go on. about begins the error text,
// keys are logged.
func Recover(err *error, log *slog.Logger, about string, keys ...any) {
	p := Recovered(recover())
	if p == nil {
		return
	}
	log.Error("panic: "+about, append(keys, "type", p.Type, "stack", p.Stack)...)
	*err = New(Internal, "%s: the driver has a defect and recovered from it", about).
		WithHint("the stack is in the driver's log on this node; please report it")
}
