package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxReviewBytes        = 3 << 20 // the API server's limit for a request
	reviewerTokenLifetime = 365 * 24 * time.Hour
)

// reviewer is the service account that may ask for TokenReviews.
var reviewer = PodRef{Namespace: "kube-system", ServiceAccount: "token-reviewer"}

// ReviewerToken is for a store's configuration: the API server answers a
// TokenReview only to a caller with a token for the API server's own audience
// whose service account may create TokenReviews. This one may.
func (i *Issuer) ReviewerToken() string {
	token, _ := i.Issue(reviewer, "", reviewerTokenLifetime)
	return token
}

// serveReview answers POST tokenreviews.
func (i *Issuer) serveReview(w http.ResponseWriter, r *http.Request) {
	if status := i.refuseCaller(r.Header.Get("Authorization")); status != nil {
		writeStatus(w, status)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReviewBytes))
	if err != nil {
		writeStatus(w, failure(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, err.Error()))
		return
	}
	var review authv1.TokenReview
	if err := json.Unmarshal(body, &review); err != nil {
		writeStatus(w, failure(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	if review.Spec.Token == "" {
		writeStatus(w, failure(http.StatusBadRequest, metav1.StatusReasonBadRequest,
			"token is required for TokenReview in authentication"))
		return
	}
	i.reviews.Add(1)
	review.TypeMeta = metav1.TypeMeta{Kind: "TokenReview", APIVersion: authv1.SchemeGroupVersion.String()}
	review.Status = i.review(review.Spec)
	writeJSON(w, http.StatusCreated, "application/json", review)
}

// refuseCaller says why this caller may not ask; nil if it may.
func (i *Issuer) refuseCaller(authorization string) *metav1.Status {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok {
		return failure(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
	}
	caller := i.review(authv1.TokenReviewSpec{Token: token})
	if !caller.Authenticated {
		return failure(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
	}
	if caller.User.UID != reviewer.withUIDs().ServiceAccountUID {
		return failure(http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf(
			"tokenreviews.authentication.k8s.io is forbidden: User %q cannot create resource %q in API group %q at the cluster scope",
			caller.User.Username, "tokenreviews", authv1.GroupName))
	}
	return nil
}

func (i *Issuer) review(spec authv1.TokenReviewSpec) authv1.TokenReviewStatus {
	wanted := spec.Audiences
	if len(wanted) == 0 {
		wanted = []string{i.url}
	}
	public, private, err := i.verify(spec.Token, wanted)
	if err != nil {
		return authv1.TokenReviewStatus{Error: fmt.Sprintf("[invalid bearer token, %v]", err)}
	}
	return authv1.TokenReviewStatus{
		Authenticated: true,
		User:          userInfo(public, private),
		Audiences:     intersection(private.Audience, wanted),
	}
}

// verify checks in the API server's order: signature, audience, time, objects.
func (i *Issuer) verify(token string, wanted []string) (jwt.Claims, boundClaims, error) {
	var public jwt.Claims
	var private boundClaims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{signingAlgorithm})
	if err != nil {
		return public, private, err
	}
	if err := parsed.Claims(i.key.Public(), &public, &private); err != nil {
		return public, private, err
	}
	if public.Issuer != i.url {
		return public, private, errors.New("unknown issuer")
	}
	if len(intersection(private.Audience, wanted)) == 0 {
		return public, private, fmt.Errorf("token audiences %q is invalid for the target audiences %q",
			private.Audience, wanted)
	}
	return public, private, i.validate(public, private)
}

func (i *Issuer) validate(public jwt.Claims, private boundClaims) error {
	// Like the API server's, this check allows a minute of leeway.
	err := public.Validate(jwt.Expected{Time: i.now()})
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return errors.New("service account token is not valid yet")
	case err != nil:
		return errors.New("service account token claims could not be validated due to unexpected validation error")
	}
	claims := private.Kubernetes
	if i.isDeleted(claims.ServiceAccount.UID) {
		return fmt.Errorf("serviceaccounts %q not found", claims.ServiceAccount.Name)
	}
	if claims.Pod != nil && i.isDeleted(claims.Pod.UID) {
		return errors.New("service account token has been invalidated")
	}
	return nil
}

func userInfo(public jwt.Claims, private boundClaims) authv1.UserInfo {
	claims := private.Kubernetes
	extra := map[string]authv1.ExtraValue{
		"authentication.kubernetes.io/credential-id": {"JTI=" + public.ID},
	}
	if claims.Pod != nil {
		extra["authentication.kubernetes.io/pod-name"] = authv1.ExtraValue{claims.Pod.Name}
		extra["authentication.kubernetes.io/pod-uid"] = authv1.ExtraValue{claims.Pod.UID}
	}
	if claims.Node != nil {
		extra["authentication.kubernetes.io/node-name"] = authv1.ExtraValue{claims.Node.Name}
		extra["authentication.kubernetes.io/node-uid"] = authv1.ExtraValue{claims.Node.UID}
	}
	return authv1.UserInfo{
		Username: public.Subject,
		UID:      claims.ServiceAccount.UID,
		Groups: []string{
			"system:serviceaccounts",
			"system:serviceaccounts:" + claims.Namespace,
			"system:authenticated",
		},
		Extra: extra,
	}
}

func intersection(have, want []string) []string {
	var both []string
	for _, s := range have {
		if slices.Contains(want, s) {
			both = append(both, s)
		}
	}
	return both
}

func failure(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Message:  message,
		Reason:   reason,
		Code:     code,
	}
}

func writeStatus(w http.ResponseWriter, status *metav1.Status) {
	writeJSON(w, int(status.Code), "application/json", status)
}
