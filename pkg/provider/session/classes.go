package session

import (
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Classes reads classes without a volume. It sends no request.
type Classes struct{ store Store }

// Validate implements provider.Validator.
func (r Classes) Validate(c *class.Class) ([]string, error) {
	s, err := r.store.Parse(c)
	if err == nil {
		err = class.Suspected(s.Suspects)
	}
	return slices.Clone(s.Warnings), err
}

// Listed returns the objects of a valid class.
func (r Classes) Listed(c *class.Class) ([]provider.Listed, error) {
	s, err := r.store.Parse(c)
	if err != nil {
		return nil, err
	}
	return s.listed(), nil
}

// Judged is what a valid class says of its login.
type Judged struct {
	provider.Access
	// Audience is that of the service account token; empty if the login needs none.
	Audience string
	// Fallback is the second address of the store; empty for none.
	Fallback string
}

// Judge returns what a valid class says.
func (r Classes) Judge(c *class.Class) (Judged, error) {
	s, err := r.store.Parse(c)
	if err != nil {
		return Judged{}, err
	}
	return Judged{s.Login.Access(), s.Audience, s.Fallback.String()}, nil
}
