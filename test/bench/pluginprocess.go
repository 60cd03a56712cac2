package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// pluginName is the provider's name in classes, and its program's name.
const pluginName = "pluginprovider"

const pluginStart = 10 * time.Second

// pluginProcess is this project's provider plugin as a process, and a connection to it.
type pluginProcess struct {
	dir    string // of its socket
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	client v1alpha1.CSIDriverProviderClient
}

// startPlugin starts the plugin with the objects of the class plugged, and
// waits until it listens.
func (w *world) startPlugin(ctx context.Context) (*pluginProcess, error) {
	p := &pluginProcess{dir: filepath.Join(w.dir, "plugins")}
	store := filepath.Join(w.dir, "objects")
	if err := os.Mkdir(store, 0o700); err != nil {
		return nil, err
	}
	files := wanted(plugged, "1")
	for object, value := range map[string]string{
		"username": files["db/username"], "password": files["db/password"], "key": files["api-key"],
	} {
		if err := os.WriteFile(filepath.Join(store, object), []byte(value), 0o600); err != nil {
			return nil, err
		}
	}
	p.cmd = exec.Command(w.plugin, "--dir="+p.dir, "--name="+pluginName, "--store="+store)
	p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("running the plugin: %w", err)
	}
	err := p.connect(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the plugin: %w", err), p.stop())
	}
	return p, nil
}

func (p *pluginProcess) socket() string { return filepath.Join(p.dir, pluginName+".sock") }

func (p *pluginProcess) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pluginStart, fmt.Errorf("it does not listen within %s", pluginStart))
	defer cancel()
	for {
		conn, err := net.Dial("unix", p.socket())
		if err == nil {
			_ = conn.Close()
			break
		}
		if stopped := pause(ctx, time.Now().Add(10*time.Millisecond)); stopped != nil {
			return errors.Join(stopped, err)
		}
	}
	var err error
	if p.conn, err = grpc.NewClient("unix:"+p.socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost")); err != nil {
		return err
	}
	p.client = v1alpha1.NewCSIDriverProviderClient(p.conn)
	return nil
}

func (p *pluginProcess) stop() error {
	var err error
	if p.conn != nil {
		err = p.conn.Close()
	}
	if e := p.cmd.Process.Signal(syscall.SIGTERM); e != nil && !errors.Is(e, os.ErrProcessDone) {
		return errors.Join(err, fmt.Errorf("stopping the plugin: %w", e))
	}
	if e := p.cmd.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("stopping the plugin: %w", e))
	}
	return err
}
