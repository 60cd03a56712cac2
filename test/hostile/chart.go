package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// chartLimit is the memory limit of the driver's container, by the chart's
// defaults.
func chartLimit() (int64, error) {
	root, err := toolcache.ModuleRoot()
	if err != nil {
		return 0, err
	}
	path := filepath.Join(root, "charts", "mayfly", "values.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading the chart's values: %w", err)
	}
	limit, err := parseLimit(data)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return limit, nil
}

func parseLimit(values []byte) (int64, error) {
	var v struct {
		Linux struct {
			Driver struct {
				Resources struct {
					Limits struct{ Memory string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(values, &v); err != nil {
		return 0, err
	}
	const field = "linux.driver.resources.limits.memory"
	q, err := resource.ParseQuantity(v.Linux.Driver.Resources.Limits.Memory)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	if q.Value() <= 0 {
		return 0, fmt.Errorf("%s is %s, which is no limit", field, q.String())
	}
	return q.Value(), nil
}
