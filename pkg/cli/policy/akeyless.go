package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

const (
	envAkeylessToken   = "AKEYLESS_TOKEN"
	envAkeylessGateway = "AKEYLESS_GATEWAY_URL"
	// maxAnswer bounds one page of roles.
	maxAnswer = 16 << 20
	// maxPages bounds the number of pages.
	maxPages = 1000
)

// akeylessRole is one role of list-roles.
type akeylessRole struct {
	Name         string `json:"role_name"`
	Associations []struct {
		AccessID string              `json:"auth_method_access_id"`
		Claims   map[string][]string `json:"auth_method_sub_claims"`
	} `json:"role_auth_methods_assoc"`
	Rules struct {
		Paths []struct {
			Path         string   `json:"path"`
			Capabilities []string `json:"capabilities"`
			Type         string   `json:"type"`
		} `json:"path_rules"`
	} `json:"rules"`
}

// itemRule is the type of rules about items.
const itemRule = "item-rule"

func (c *command) compareAkeyless(ctx context.Context, all []access.Rules) {
	for _, want := range all {
		roles, err := c.akeylessRoles(ctx, want.Gateway)
		if err != nil {
			title := "roles of access ID " + want.AccessID
			c.report.Check(title, finding.Unknown, "")
			c.report.Add(finding.CodeNotReadable, finding.Finding{
				Object: access.ObjectOf(want.Classes[0]), Message: title + " could not be read: " + err.Error(),
				Remedy: "set AKEYLESS_TOKEN to a token that may list roles: akeyless auth",
			})
			continue
		}
		for _, a := range want.Accounts {
			c.compareAccount(want, a, rolesOf(roles, want.AccessID, a))
		}
	}
}

// rolesOf are the roles of an account, by its claims.
func rolesOf(roles []akeylessRole, accessID string, a access.Account) []akeylessRole {
	claims := map[string]string{"namespace": a.Namespace, "service_account_name": a.Name}
	return slices.DeleteFunc(slices.Clone(roles), func(r akeylessRole) bool {
		for _, assoc := range r.Associations {
			fits := assoc.AccessID == accessID
			for claim, values := range assoc.Claims {
				value, known := claims[claim]
				fits = fits && (!known || anyGlob(values, value))
			}
			if fits {
				return false
			}
		}
		return true
	})
}

func (c *command) compareAccount(want access.Rules, a access.Account, roles []akeylessRole) {
	about := access.ObjectOf(want.Classes[0])
	if len(roles) == 0 {
		c.report.Check("roles of "+a.String(), finding.Bad, "there is none")
		c.report.Add(finding.CodePolicyNoRole, finding.Finding{Object: about, Message: fmt.Sprintf("no role is associated with access ID %s for service account %s", want.AccessID, a)})
		return
	}
	for _, item := range want.Items {
		granted := grantedBy(roles, item.Path)
		title := fmt.Sprintf("%s: %s on %s", a, strings.Join(item.Capabilities, ", "), item.Path)
		missing := slices.DeleteFunc(slices.Clone(item.Capabilities), func(w string) bool {
			return slices.Contains(granted, w) || w == "list" && !slices.Contains(item.Capabilities, "update") && slices.Contains(granted, "read")
		})
		if len(missing) == 0 && !slices.Contains(granted, "deny") {
			c.report.Check(title, finding.Good, "")
			continue
		}
		c.report.Check(title, finding.Bad, "")
		c.report.Add(finding.CodePolicyMissing, finding.Finding{
			Object: about, Message: fmt.Sprintf("the roles of service account %s do not grant %s on %q", a, strings.Join(item.Capabilities, ", "), item.Path),
			Remedy: want.RuleCommand(item),
		})
	}
	c.wideAkeyless(want, about, roles)
}

// grantedBy is what the roles together grant on an item.
func grantedBy(roles []akeylessRole, item string) []string {
	var granted []string
	for _, r := range roles {
		for _, rule := range r.Rules.Paths {
			if rule.Type == itemRule && access.Matches(strings.TrimPrefix(rule.Path, "/"), strings.TrimPrefix(item, "/")) {
				granted = append(granted, rule.Capabilities...)
			}
		}
	}
	return granted
}

func (c *command) wideAkeyless(want access.Rules, about finding.Object, roles []akeylessRole) {
	for _, r := range roles {
		for _, rule := range r.Rules.Paths {
			var paths, needed []string
			for _, item := range want.Items {
				if rule.Type == itemRule && access.Matches(strings.TrimPrefix(rule.Path, "/"), strings.TrimPrefix(item.Path, "/")) {
					paths, needed = append(paths, item.Path), append(needed, item.Capabilities...)
				}
			}
			more := slices.DeleteFunc(slices.Clone(rule.Capabilities), func(w string) bool { return slices.Contains(needed, w) || w == "deny" })
			what := fmt.Sprintf("role %q grants %s on %q", r.Name, strings.Join(rule.Capabilities, ", "), rule.Path)
			switch {
			case len(more) == 0 && (!access.IsWildcard(rule.Path) || len(paths) == 0):
			case len(paths) == 0:
				c.report.Add(finding.CodePolicyTooWide, finding.Finding{Object: about, Message: what + ", which no class needs"})
			case len(more) > 0:
				c.report.Add(finding.CodePolicyTooWide, finding.Finding{Object: about, Message: what + ", and the classes do not need " + strings.Join(more, ", ") + " there"})
			default:
				c.report.Add(finding.CodePolicyTooWide, finding.Finding{
					Object: about, Level: finding.Info, Message: what + ", and the classes need it on " + strings.Join(paths, ", ") + " alone",
					Remedy: "list the items themselves, unless you plan more classes of this role",
				})
			}
		}
	}
}

// akeylessRoles lists the roles that the user may see.
func (c *command) akeylessRoles(ctx context.Context, gateway string) ([]akeylessRole, error) {
	token := c.streams.Getenv(envAkeylessToken)
	if token == "" {
		return nil, errors.New("there is no Akeyless token: set " + envAkeylessToken)
	}
	if other := c.streams.Getenv(envAkeylessGateway); other != "" {
		gateway = other
	}
	var roles []akeylessRole
	next := ""
	for range maxPages {
		var page struct {
			Roles []akeylessRole `json:"roles"`
			Next  string         `json:"next_page"`
		}
		body := map[string]any{"token": token, "json": true}
		if next != "" {
			body["pagination-token"] = next
		}
		if err := post(ctx, gateway, "/list-roles", body, &page); err != nil {
			return nil, err
		}
		roles = append(roles, page.Roles...)
		if next = page.Next; next == "" {
			break
		}
	}
	return roles, nil
}

// post makes one call of Akeyless' API. It follows no redirects, since the body has the token.
func post(ctx context.Context, gateway, path string, body map[string]any, into any) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	sent, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	u, err := url.JoinPath(gateway, path)
	if err != nil {
		return fmt.Errorf("reading the gateway's address: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(sent))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("asking %s: %w", gateway, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", gateway, err)
	}
	if resp.StatusCode != http.StatusOK {
		var said struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(data, &said)
		return fmt.Errorf("%s answered %d: %s", gateway, resp.StatusCode, said.Error)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("the response of %s is not Akeyless' JSON", gateway)
	}
	return nil
}
