package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
)

func itoa(n int) string { return strconv.Itoa(n) }

// lookup looks up the login's token at Vault, and describes it.
func (d *doctor) lookup(ctx context.Context) (string, error) {
	answer, err := d.connection.Session.Do(ctx, store.Request{Operation: "lookup", Method: http.MethodGet, Path: "auth/token/lookup-self", Repeatable: true})
	if store.Says(err, http.StatusForbidden, "") && isLogin(err) {
		return "", err
	}
	if store.Says(err, http.StatusForbidden, "") {
		return "the token may not look itself up", nil // the policy default is not granted
	}
	if err != nil {
		return "", err
	}
	defer answer.Wipe()
	var token struct {
		Data struct {
			Policies  []string `json:"policies"`
			Identity  []string `json:"identity_policies"`
			TTL       int64    `json:"ttl"`
			Period    int64    `json:"period"`
			MaxTTL    int64    `json:"explicit_max_ttl"`
			Uses      int      `json:"num_uses"`
			Renewable bool     `json:"renewable"`
		} `json:"data"`
	}
	if err := answer.Decode(&token); err != nil {
		return "", err
	}
	t := token.Data
	text := "policies " + strings.Join(append(t.Policies, t.Identity...), ", ")
	switch {
	case t.TTL == 0:
		text += ", the token never ends"
	case t.Period > 0:
		text += fmt.Sprintf(", a periodic token of %s", time.Duration(t.Period)*time.Second)
	default:
		text += fmt.Sprintf(", the token ends in %s", time.Duration(t.TTL)*time.Second)
	}
	return text, nil
}

// isLogin distinguishes a refused login from a refused lookup.
func isLogin(err error) bool { return strings.Contains(err.Error(), "logging in") }

const titlePolicy = "policy"

// right is what the login should be allowed on a path, and what not.
type right struct {
	path string
	need string
	// may are further capabilities that do no harm.
	may []string
	// why says what too many rights would allow.
	why string
}

func (d *doctor) rights() []right {
	t := d.Config.Transit
	on := func(operation, more string) string { return t.Mount + "/" + operation + "/" + t.Key + more }
	const upsert = "where the key is gone, Vault makes a new one in silence, and what was encrypted before is lost"
	return []right{
		{on("keys", ""), "read", []string{"list"}, "the plugin never makes or changes the key"},
		{on("encrypt", ""), "update", nil, upsert},
		{on("decrypt", ""), "update", nil, "the plugin only decrypts there"},
		{on("keys", "/config"), "", nil, "who has the login could raise min_decryption_version"},
		{on("keys", "/rotate"), "", nil, "the plugin never rotates the key"},
		{on("keys", "/trim"), "", nil, "who has the login could destroy versions of the key"},
		{t.Mount + "/export/encryption-key/" + t.Key, "", nil, "who has the login could take the key"},
		{on("backup", ""), "", nil, "who has the login could take the key"},
		{on("restore", ""), "", nil, "who has the login could replace the key"},
	}
}

// policy asks Vault for the login's capabilities.
func (d *doctor) policy(ctx context.Context) {
	rights := d.rights()
	paths := make([]string, len(rights))
	for i := range rights {
		paths[i] = rights[i].path
	}
	have, err := d.capabilities(ctx, paths)
	if err != nil {
		remedy := fault.Hint(err)
		if remedy == "" || store.Says(err, http.StatusForbidden, "") {
			remedy = "grant update on sys/capabilities-self, which Vault's policy default has"
		}
		d.Add(report.Unknown, titlePolicy, remedy, "%s", plain(err))
		return
	}
	good := true
	for _, r := range rights {
		good = d.compareRights(r, have[r.path]) && good
	}
	if good {
		d.Good(titlePolicy, "read on keys/, update on encrypt/ and decrypt/, and no more")
	}
}

// compareRights compares the capabilities on a path with what they should be.
func (d *doctor) compareRights(r right, have []string) bool {
	title := titlePolicy + " on " + r.path
	if slices.Contains(have, "root") {
		d.Add(report.Failed, title, "log in with a role that has the policy of deploy/kms/policy.hcl alone", "the login is root, and may do everything")
		return false
	}
	good := true
	if r.need != "" && !slices.Contains(have, r.need) {
		d.Add(report.Failed, title, fmt.Sprintf("write path %q { capabilities = [%q] } into the policy", r.path, r.need), "%s is not granted", r.need)
		good = false
	}
	var extra []string
	for _, c := range have {
		if c != "deny" && c != r.need && !slices.Contains(r.may, c) {
			extra = append(extra, c)
		}
	}
	if len(extra) > 0 {
		slices.Sort(extra)
		state := report.Warning
		if slices.Contains(extra, "create") && r.need == "update" {
			state = report.Failed
		}
		d.Add(state, title, "take "+strings.Join(extra, " and ")+" out of the policy", "%s is granted: %s", strings.Join(extra, " and "), r.why)
		good = false
	}
	return good
}

func (d *doctor) capabilities(ctx context.Context, paths []string) (map[string][]string, error) {
	body, err := json.Marshal(map[string][]string{"paths": paths})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	answer, err := d.connection.Session.Do(ctx, store.Request{
		Operation: "capabilities", Method: http.MethodPost, Path: "sys/capabilities-self", Body: body, Repeatable: true,
	})
	if err != nil {
		return nil, fmt.Errorf("asking Vault what the login may do: %w", err)
	}
	defer answer.Wipe()
	var said struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if err := answer.Decode(&said); err != nil {
		return nil, fmt.Errorf("asking Vault what the login may do: %w", err)
	}
	have := map[string][]string{}
	for _, path := range paths {
		var list []string
		if json.Unmarshal(said.Data[path], &list) != nil || len(list) == 0 {
			return nil, fault.New(fault.BadAnswer, "asking Vault what the login may do: the answer does not name %s", path)
		}
		have[path] = list
	}
	return have, nil
}
