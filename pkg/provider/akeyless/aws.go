package akeyless

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	stsHost    = "sts.amazonaws.com"
	stsVersion = "2011-06-15"
	stsForm    = "application/x-www-form-urlencoded; charset=utf-8"
)

// awsKeys are the temporary credentials of a role.
type awsKeys struct {
	ID     string `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
	Secret string `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
	Token  string `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
}

// identity returns a signed GetCallerIdentity request in the form that Akeyless expects.
func (k awsKeys) identity(now time.Time) (secret.String, error) {
	body := url.Values{"Action": {"GetCallerIdentity"}, "Version": {stsVersion}}.Encode()
	headers, err := json.Marshal(k.sign(body, now.UTC()))
	if err != nil {
		return secret.String{}, err
	}
	pack := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	request, err := json.Marshal(map[string]string{
		"sts_request_method": "POST", "sts_request_url": pack([]byte("https://" + stsHost + "/")),
		"sts_request_body": pack([]byte(body)), "sts_request_headers": pack(headers),
	})
	return secret.NewString(pack(request)), err
}

// sign returns the headers of a request to STS with a Signature Version 4:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html.
func (k awsKeys) sign(body string, now time.Time) map[string][]string {
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	headers := [][2]string{
		{"content-length", fmt.Sprint(len(body))}, {"content-type", stsForm}, {"host", stsHost},
		{"x-amz-date", stamp}, {"x-amz-security-token", k.Token},
	}
	var names []string
	var canonical strings.Builder
	canonical.WriteString("POST\n/\n\n")
	for _, h := range headers {
		names = append(names, h[0])
		fmt.Fprintf(&canonical, "%s:%s\n", h[0], h[1])
	}
	signed := strings.Join(names, ";")
	fmt.Fprintf(&canonical, "\n%s\n%s", signed, hexSum(body))

	scope := day + "/us-east-1/sts/aws4_request"
	signature := hex.EncodeToString(mac(signingKey(k.Secret, day, "us-east-1", "sts"), "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hexSum(canonical.String())))
	return map[string][]string{
		"Authorization":        {fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", k.ID, scope, signed, signature)},
		"Content-Length":       {fmt.Sprint(len(body))},
		"Content-Type":         {stsForm},
		"Host":                 {stsHost},
		"X-Amz-Date":           {stamp},
		"X-Amz-Security-Token": {k.Token},
	}
}

func signingKey(secretKey, day, region, service string) []byte {
	key := []byte("AWS4" + secretKey)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
