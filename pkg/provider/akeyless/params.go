package akeyless

import (
	"encoding/json"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// The parameters of a class. Those up to keyObjects are the Akeyless CSI provider's.
const (
	keyGateway       = "akeylessGatewayURL"
	keyAccessType    = "akeylessAccessType"
	keyAccessID      = "akeylessAccessID"
	keyAccessKey     = "akeylessAccessKey"
	keyAzureObjectID = "akeylessAzureObjectID"
	keyGCPAudience   = "akeylessGCPAudience"
	keyUIDToken      = "akeylessUIDInitToken"
	keyK8sConfig     = "akeylessK8sAuthConfigName"
	keyObjects       = "objects"

	keyFallback    = "akeylessFallbackGatewayURL"
	keyK8sGateway  = "akeylessK8sGatewayURL"
	keyAudience    = "audience"
	keySharing     = "sessionSharing"
	keyCAFile      = "akeylessCACertPath"
	keyCADir       = "akeylessCADirectory"
	keyCA          = "akeylessCACert"
	keyServerName  = "akeylessTLSServerName"
	keySkipVerify  = "akeylessSkipTLSVerify"
	keyClientCert  = "akeylessTLSClientCertPath"
	keyClientKey   = "akeylessTLSClientKeyPath"
	keyAWSRole     = "akeylessAWSRoleARN"
	keyAzureTenant = "akeylessAzureTenantID"
	keyAzureClient = "akeylessAzureClientID"
	keyGCPProvider = "akeylessGCPWorkloadProvider"
	keyGCPAccount  = "akeylessGCPServiceAccount"
)

func parameterKeys() []string {
	return []string{
		keyGateway, keyAccessType, keyAccessID, keyAccessKey, keyAzureObjectID, keyGCPAudience, keyUIDToken,
		keyK8sConfig, keyObjects, keyFallback, keyK8sGateway, keyAudience, keySharing, keyCAFile, keyCADir, keyCA,
		keyServerName, keySkipVerify, keyClientCert, keyClientKey, keyAWSRole, keyAzureTenant, keyAzureClient,
		keyGCPProvider, keyGCPAccount,
	}
}

func targetKeys() params.TargetKeys {
	return params.TargetKeys{
		Address: keyGateway, Fallback: keyFallback, CACertFile: keyCAFile, CACertDir: keyCADir, CACert: keyCA, ServerName: keyServerName,
		ClientCertFile: keyClientCert, ClientKeyFile: keyClientKey, SkipVerify: keySkipVerify,
	}
}

func known() params.Known {
	return params.Known{Keys: parameterKeys(), Long: []string{keyObjects, keyCA}, Secret: []string{keyAccessKey, keyUIDToken}}
}

// Parameters returns the names that a class may use, sorted, without those of package
// class.
func Parameters() []string { return known().All() }

func settingNames() endpoint.Names { return params.TargetNames(targetKeys(), known()) }

// accessType is how to log in.
type accessType string

const (
	typeAccessKey accessType = "access_key"
	typeK8s       accessType = "k8s"
	typeJWT       accessType = "jwt"
	typeUID       accessType = "universal_identity"
	typeAWS       accessType = "aws_iam"
	typeAzure     accessType = "azure_ad"
	typeGCP       accessType = "gcp"
)

func accessTypes() []string {
	return []string{
		string(typeK8s), string(typeJWT), string(typeAccessKey), string(typeUID),
		string(typeAWS), string(typeAzure), string(typeGCP),
	}
}

// asPod reports whether the login uses the pod's service account token.
func (t accessType) asPod() bool { return t != typeAccessKey && t != typeUID }

// seesPod reports whether Akeyless gets the pod's token, which names the pod. A cloud
// passes on at most the service account.
func (t accessType) seesPod() bool { return t == typeK8s || t == typeJWT }

// secretKey is the parameter with the credential, for types that have one.
func (t accessType) secretKey() string {
	switch t {
	case typeAccessKey:
		return keyAccessKey
	case typeUID:
		return keyUIDToken
	}
	return ""
}

// The values of sessionSharing.
const (
	sharePod            = "pod"
	shareServiceAccount = "serviceAccount"
)

// login is how one identity logs in, without its secret. It is comparable, and its JSON is
// part of the state.
type login struct {
	Target   endpoint.Target
	Fallback endpoint.Target `json:",omitzero"` // zero for none
	Type     accessType
	AccessID string
	Audience string
	Sharing  string

	K8sConfig  string `json:",omitempty"`
	K8sGateway string `json:",omitempty"`

	AWSRole     string `json:",omitempty"`
	AzureTenant string `json:",omitempty"`
	AzureClient string `json:",omitempty"`
	GCPProvider string `json:",omitempty"`
	GCPAccount  string `json:",omitempty"`
	GCPAudience string `json:",omitempty"`
}

// newLogin reads everything but the objects.
func newLogin(p *params.Set, c *Config, operator endpoint.Operator) login {
	target := p.Target(targetKeys(), operator)
	l := login{
		Target:   target,
		Fallback: p.Fallback(targetKeys(), operator, target),
		AccessID: p.Get(keyAccessID, c.DefaultAccessID),
		Sharing:  p.Word(keySharing, "", sharePod, shareServiceAccount),
	}
	l.Type = typeOf(p, c)
	if l.AccessID == "" && l.Type != typeUID {
		p.Required(keyAccessID, "the access ID of the auth method, as in p-abcdef123456")
	}
	l.details(p, c)
	for _, key := range []string{keyAccessKey, keyUIDToken} {
		if p.Has(key) {
			p.Warn(p.Field(key), "everybody who may read the class can read this credential; put it in a Secret and name that in nodePublishSecretRef")
		}
	}
	return l
}

// typeOf derives the type from the other parameters if the class has none. If these show
// nothing, it is access_key, as in Akeyless' API.
func typeOf(p *params.Set, c *Config) accessType {
	def := typeAccessKey
	switch {
	case p.Has(keyK8sConfig):
		def = typeK8s
	case p.Has(keyAccessKey):
	case p.Has(keyUIDToken):
		def = typeUID
	case c.DefaultK8sAuthConfigName != "":
		def = typeK8s
	}
	return accessType(p.Word(keyAccessType, string(def), accessTypes()...))
}

// details reads the parameters of the access type.
func (l *login) details(p *params.Set, c *Config) {
	l.Audience = p.Get(keyAudience, l.audience(p, c))
	switch l.Type {
	case typeK8s:
		l.K8sConfig = need(p, keyK8sConfig, c.DefaultK8sAuthConfigName, "the name of the gateway's Kubernetes auth config")
		l.K8sGateway = l.Target.Address.String()
		if p.Has(keyK8sGateway) {
			l.K8sGateway = p.Address(keyK8sGateway, false).String()
		}
	case typeAWS:
		l.AWSRole = need(p, keyAWSRole, "", "the AWS role that trusts the pod's service account")
	case typeAzure:
		l.AzureTenant = need(p, keyAzureTenant, "", "the Entra ID tenant")
		l.AzureClient = need(p, keyAzureClient, "", "the application or managed identity that trusts the pod's service account")
		if p.Has(keyAzureObjectID) {
			p.Warn(p.Field(keyAzureObjectID), "chooses among the node's managed identities, which Mayfly never uses for a pod; %s names the pod's own", keyAzureClient)
		}
	case typeGCP:
		l.GCPProvider = strings.TrimPrefix(need(p, keyGCPProvider, "", "the workload identity provider, as in //iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k"), "https:")
		l.GCPAccount = need(p, keyGCPAccount, "", "the email address of the Google service account")
		l.GCPAudience = p.Get(keyGCPAudience, "akeyless.io")
	}
}

// audience returns the audience that the receiver of the token expects.
func (l *login) audience(p *params.Set, c *Config) string {
	switch l.Type {
	case typeK8s, typeJWT:
		return c.DefaultAudience
	case typeAWS:
		return "sts.amazonaws.com"
	case typeAzure:
		return "api://AzureADTokenExchange"
	case typeGCP:
		return "https:" + strings.TrimPrefix(p.Get(keyGCPProvider, ""), "https:")
	}
	return ""
}

func need(p *params.Set, key, def, what string) string {
	v := p.Get(key, def)
	if v == "" {
		p.Required(key, what)
	}
	return v
}

// Destination implements session.Login.
func (l login) Destination() string { return l.Target.Address.String() }

// Access implements session.Login.
func (l login) Access() provider.Access {
	return provider.Access{Address: l.Target.Address.String(), Mount: string(l.Type), Role: l.AccessID}
}

// loginOf returns a login of this provider.
func loginOf(l session.Login) login { return l.(login) } //nolint:forcetypeassert // no other is made

// ReadLogin implements session.Store.
func (p *Provider) ReadLogin(raw json.RawMessage) (session.Login, error) {
	return session.DecodeLogin[login](raw)
}
