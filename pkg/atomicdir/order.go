package atomicdir

import (
	"fmt"
	"slices"
	"strings"
)

// sortedIndexes validates the files and returns their indexes in tree order.
func sortedIndexes(files []File) ([]int, error) {
	order := make([]int, len(files))
	for i, f := range files {
		if err := validateFile(f); err != nil {
			return nil, err
		}
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return treeCompare(files[a].Path, files[b].Path) })
	for k := 1; k < len(order); k++ {
		i, j := order[k-1], order[k]
		a, b := files[i].Path, files[j].Path
		if a == b {
			return nil, &PathError{a, fmt.Sprintf("is given twice, as files %d and %d", i, j)}
		}
		// In tree order the entries below a path follow it directly, so comparing neighbours is
		// enough.
		if strings.HasPrefix(b, a) && b[len(a)] == '/' {
			return nil, &PathError{a, fmt.Sprintf("is a file (files %d) and also a directory (files %d, %s)", i, j, quote(b))}
		}
	}
	return order, nil
}

// treeCompare orders paths as a walk of the tree does: bytewise, with '/' before every other byte.
func treeCompare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return int(a[i]) - int(b[i])
	}
	return len(a) - len(b)
}

// split cuts a clean path into its directory ("" at the top) and last element.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
