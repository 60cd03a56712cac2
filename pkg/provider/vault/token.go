package vault

import (
	"encoding/json"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// authInfo is the token in the answer to a login or renewal.
type authInfo struct {
	Token     string            `json:"client_token"`
	TTL       json.Number       `json:"lease_duration"`
	Renewable bool              `json:"renewable"`
	Type      string            `json:"token_type"`
	Metadata  map[string]string `json:"metadata"`
	MFA       json.RawMessage   `json:"mfa_requirement"`
	// Uses is the role's token_num_uses; 0 means any number.
	Uses int `json:"num_uses"`
}

func (a authInfo) ttl() time.Duration {
	seconds, err := a.TTL.Float64()
	if err != nil {
		return 0
	}
	return seconds2duration(seconds)
}

func (a authInfo) grant() session.Grant {
	return session.Grant{Value: a.Token, TTL: a.ttl(), Renewable: a.Renewable && a.Type != "batch", Uses: a.Uses}
}

// loginIn reads the token in the answer to a login.
func loginIn(reply *endpoint.Reply, at endpoint.Address) (authInfo, error) {
	var body struct {
		Auth *authInfo `json:"auth"`
	}
	switch {
	case json.Unmarshal(reply.Body, &body) != nil:
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s is not Vault's JSON (%s)", at, shape(reply.ContentType, reply.Body))
	case body.Auth == nil:
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s holds no Vault token", at)
	case !isNull(body.Auth.MFA):
		return authInfo{}, fault.New(fault.Denied, "the role asks for a second factor").WithHint("a pod has none: except the role from login MFA")
	case body.Auth.Token == "" || endpoint.HasControl(body.Auth.Token):
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s holds no usable Vault token", at)
	}
	return *body.Auth, nil
}
