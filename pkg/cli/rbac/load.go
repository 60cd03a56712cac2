package rbac

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// Unseen is a kind that could not be listed, and the reason.
type Unseen struct {
	Object finding.Object
	Err    error
}

// Load lists the roles and bindings of a cluster, or only those of one namespace if the user may
// not list those of all namespaces.
func Load(ctx context.Context, c kubernetes.Interface, namespace string) (Objects, []Unseen) {
	var o Objects
	var unseen []Unseen
	note := func(kind, of string, err error) {
		if err != nil {
			unseen = append(unseen, Unseen{finding.Object{Kind: kind, Namespace: of, Name: "*"}, err})
		}
	}
	rbac := c.RbacV1()
	note("ClusterRole", "", pages(&o.ClusterRoles, func(lo metav1.ListOptions) ([]rbacv1.ClusterRole, string, error) {
		list, err := rbac.ClusterRoles().List(ctx, lo)
		return items(list, err, func() []rbacv1.ClusterRole { return list.Items })
	}))
	note("ClusterRoleBinding", "", pages(&o.ClusterRoleBindings, func(lo metav1.ListOptions) ([]rbacv1.ClusterRoleBinding, string, error) {
		list, err := rbac.ClusterRoleBindings().List(ctx, lo)
		return items(list, err, func() []rbacv1.ClusterRoleBinding { return list.Items })
	}))
	within := func(kind string, list func(namespace string) error) {
		err := list("")
		note(kind, "", err)
		if apierrors.IsForbidden(err) && namespace != "" {
			note(kind, namespace, list(namespace))
		}
	}
	within("Role", func(namespace string) error {
		return pages(&o.Roles, func(lo metav1.ListOptions) ([]rbacv1.Role, string, error) {
			list, err := rbac.Roles(namespace).List(ctx, lo)
			return items(list, err, func() []rbacv1.Role { return list.Items })
		})
	})
	within("RoleBinding", func(namespace string) error {
		return pages(&o.RoleBindings, func(lo metav1.ListOptions) ([]rbacv1.RoleBinding, string, error) {
			list, err := rbac.RoleBindings(namespace).List(ctx, lo)
			return items(list, err, func() []rbacv1.RoleBinding { return list.Items })
		})
	})
	return o, unseen
}

// items are the items of a page, and its continue token.
func items[T any](list metav1.ListInterface, err error, of func() []T) ([]T, string, error) {
	if err != nil {
		return nil, "", err
	}
	return of(), list.GetContinue(), nil
}

// pages collects all pages, without the fields that no check needs.
func pages[T any, P interface {
	*T
	metav1.Object
}](all *[]T, list func(metav1.ListOptions) ([]T, string, error)) error {
	return cluster.Pages(func(o metav1.ListOptions) (string, error) {
		page, next, err := list(o)
		for i := range page {
			object := P(&page[i])
			object.SetManagedFields(nil)
			object.SetAnnotations(nil)
		}
		*all = append(*all, page...)
		return next, err
	})
}
