// Command pluginprovider serves the test provider on a socket, as a provider's pod does. It stores
// its objects in a directory, each in a file, so that a test changes one by writing the file.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/mayfly-csi/mayfly/test/pluginprovider"
)

func main() {
	dir := flag.String("dir", "/var/run/secrets-store-csi-providers", "`directory` of the socket")
	name := flag.String("name", "pluginprovider", "`name` of the provider")
	store := flag.String("store", "", "`directory` of the objects")
	deny := flag.String("deny", "", "service accounts that may not read, as namespace/name, separated by `commas`")
	raw := flag.String("raw", "", "be no provider but a broken server of this `kind`: "+strings.Join(pluginprovider.RawKinds(), ", "))
	flag.Parse()
	if err := run(*dir, *name, *store, *deny, *raw); err != nil {
		fmt.Fprintln(os.Stderr, "pluginprovider:", err)
		os.Exit(1)
	}
}

func run(dir, name, store, deny, raw string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM, syscall.SIGINT)
	if raw != "" {
		s, err := pluginprovider.StartRaw(dir, name, raw)
		if err != nil {
			return err
		}
		<-stopped
		s.Stop()
		return nil
	}
	s, err := pluginprovider.Start(dir, name, pluginprovider.Options{
		Store: pluginprovider.Dir(store), Deny: strings.Split(deny, ","), Forget: true,
		Die: func() { os.Exit(2) },
	})
	if err != nil {
		return err
	}
	go func() {
		<-stopped
		s.Stop()
	}()
	<-s.Stopped()
	return nil
}
