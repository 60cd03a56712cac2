// Command image builds Mayfly's container images without Docker: the static binary, the public
// certificate authorities and an account file, for each platform, as one OCI layout in a tar file
// that "docker load" accepts too. The same source gives the same bytes. An SPDX document for each
// platform lists its contents.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const description = `image builds a container image of Mayfly's without Docker.

It writes to --out:
  PROGRAM_VERSION.oci.tar               the image of all platforms
  PROGRAM_VERSION_OS_ARCH.spdx.json     what the image of a platform holds

Take it into a container runtime or a registry with any of
  ctr --namespace k8s.io images import PROGRAM_VERSION.oci.tar
  docker load --input PROGRAM_VERSION.oci.tar
  skopeo copy --all oci-archive:PROGRAM_VERSION.oci.tar docker://REGISTRY/NAME:TAG

SOURCE_DATE_EPOCH sets every time in it; the default is that of the commit.

Flags:
`

// options are the values of the command line.
type options struct {
	source, out, rootfs string
	program, name       string
	version, revision   string
	platforms           []platform
	epoch               int64 // seconds since 1970
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	o, err := parse(ctx, args, getenv, stdout)
	if err != nil {
		return err
	}
	if o.rootfs != "" {
		return o.writeRootfs(ctx)
	}
	return o.writeImage(ctx, stdout)
}

func parse(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.SetOutput(stdout)
	f.Usage = func() { fmt.Fprint(stdout, description); f.PrintDefaults() }
	f.StringVar(&o.source, "source", "../..", "`directory` of Mayfly's source")
	f.StringVar(&o.out, "out", "", "`directory` to write to (default: dist in the source)")
	f.StringVar(&o.rootfs, "rootfs", "", "write the files of the image of the one platform into this `directory`, and no image")
	f.StringVar(&o.name, "name", "", "`name` of the image (default ghcr.io/mayfly-csi/PROGRAM)")
	f.StringVar(&o.program, "program", "mayfly-node", "`program` of the image: mayfly-node or mayfly-kms")
	f.StringVar(&o.version, "version", "", "`version` of the program and tag of the image (default: git describe)")
	platforms := f.String("platforms", "linux/amd64,linux/arm64", "`platforms`, separated by commas")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if _, known := descriptions()[o.program]; !known {
		return nil, fmt.Errorf("--program: there is no image of %q", o.program)
	}
	if o.name == "" {
		o.name = "ghcr.io/mayfly-csi/" + o.program
	}
	if o.out == "" {
		o.out = filepath.Join(o.source, "dist")
	}
	for text := range strings.SplitSeq(*platforms, ",") {
		p, err := parsePlatform(text)
		if err != nil {
			return nil, fmt.Errorf("--platforms: %w", err)
		}
		o.platforms = append(o.platforms, p)
	}
	return o, o.describe(ctx, getenv)
}

// descriptions are the programs' descriptions, for the images' annotations.
func descriptions() map[string]string {
	return map[string]string{
		"mayfly-node": "CSI node driver that gives pods their secrets as files in a private tmpfs",
		"mayfly-kms":  "KMS v2 plugin of kube-apiserver on Vault's or OpenBao's Transit engine",
	}
}
