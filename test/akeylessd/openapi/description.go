package openapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"go.yaml.in/yaml/v3"
)

const client = "github.com/akeylesslabs/akeyless-go/v4"

// Paths are the calls that the double answers.
func Paths() []string {
	return []string{
		"/auth", "/get-secret-value", "/describe-item", "/get-rotated-secret-value",
		"/get-certificate-value", "/get-dynamic-secret-value", "/dynamic-secret-tmp-creds-delete", "/get-pki-certificate",
		"/describe-permissions", "/list-roles",
	}
}

// load reads the part of the description that the double implements. The whole has 562 paths and
// takes long to check.
func load(ctx context.Context, file, server string) (routers.Router, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("parsing the description: %w", err)
	}
	described, _ := all["paths"].(map[string]any)
	paths := map[string]any{}
	for _, path := range Paths() {
		if described[path] == nil {
			return nil, fmt.Errorf("the description has no path %s", path)
		}
		paths[path] = described[path]
	}
	all["paths"], all["servers"] = paths, []any{map[string]any{"url": server}}
	if data, err = yaml.Marshal(all); err != nil {
		return nil, fmt.Errorf("writing the description: %w", err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		return nil, fmt.Errorf("understanding the description: %w", err)
	}
	return legacy.NewRouter(doc, openapi3.DisableExamplesValidation(), openapi3.DisableSchemaDefaultsValidation())
}

// locate finds the description in the client's module.
func locate(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", client).Output()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", client, err)
	}
	dir := strings.TrimSpace(string(out))
	if dir == "" {
		return "", errors.New("the module " + client + " is not downloaded")
	}
	return filepath.Join(dir, "api", "openapi.yaml"), nil
}
