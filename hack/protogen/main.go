// Command protogen generates Go code from .proto files, as protoc does with protoc-gen-go and
// protoc-gen-go-grpc. All three parts are Go modules pinned in this directory's go.mod, so that
// every machine generates the same bytes and none needs a protoc.
//
// Run it in this directory:
//
//	go run . <root> <out> <file.proto>...
//
// The files are named relative to root, and the generated ones have the same paths below out.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errors.New("usage: go run . <root> <out> <file.proto>")
	}
	root, out, files := args[0], args[1], args[2:]
	for _, file := range files {
		descriptor, err := compile(ctx, root, file)
		if err != nil {
			return fmt.Errorf("compiling %s: %w", file, err)
		}
		for _, tool := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
			if err := generate(ctx, tool, descriptor, out); err != nil {
				return fmt.Errorf("running %s on %s: %w", tool, file, err)
			}
		}
	}
	return nil
}

// compile reads one file, with the comments that protoc copies to the Go code.
func compile(ctx context.Context, root, file string) (*descriptorpb.FileDescriptorProto, error) {
	c := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{root}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := c.Compile(ctx, file)
	if err != nil {
		return nil, err
	}
	result, ok := compiled[0].(linker.Result)
	if !ok {
		return nil, errors.New("the compiler gave no descriptor")
	}
	return result.FileDescriptorProto(), nil
}

// generate runs a plugin of protoc, in protoc's own protocol.
func generate(ctx context.Context, tool string, file *descriptorpb.FileDescriptorProto, out string) error {
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file.GetName()},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{file},
	})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", tool)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(request), os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(answer, &response); err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	if response.Error != nil {
		return errors.New(response.GetError())
	}
	return write(out, &response)
}

func write(out string, response *pluginpb.CodeGeneratorResponse) error {
	for _, f := range response.GetFile() {
		path := filepath.Join(out, f.GetName())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
