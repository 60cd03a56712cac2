package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// loginFlags are the settings of logins, with the methods that have them.
func (r *raw) loginFlags() []struct {
	flag    string
	set     bool
	methods []Method
} {
	return []struct {
		flag    string
		set     bool
		methods []Method
	}{
		{"role-id", r.roleID != "", []Method{AppRole}},
		{"secret-id-file", r.secretIDFile != "", []Method{AppRole}},
		{"secret-id-wrapped", r.wrapped, []Method{AppRole}},
		{"jwt-file", r.jwtFile != "", []Method{JWT}},
		{"token-file", r.tokenFile != "", []Method{TokenFile}},
		{"auth-role", r.role != "", []Method{Cert, JWT}},
		{"auth-mount", r.mount != "", []Method{AppRole, Cert, JWT}},
		{"auth-inline", r.inline, []Method{AppRole, JWT}},
	}
}

func (r *raw) checkLogin(c *Config) error {
	l := &c.Login
	*l = Login{
		Method: Method(r.method), Mount: strings.Trim(strings.TrimPrefix(r.mount, "auth/"), "/"), Role: r.role, RoleID: r.roleID,
		SecretIDFile: r.secretIDFile, SecretIDWrapped: r.wrapped, JWTFile: r.jwtFile, TokenFile: r.tokenFile, Inline: r.inline,
	}
	if !slices.Contains([]Method{AppRole, Cert, JWT, TokenFile}, l.Method) {
		return refused("auth-method", "must be approle, cert, jwt or token-file")
	}
	for _, f := range r.loginFlags() {
		if f.set && !slices.Contains(f.methods, l.Method) {
			return refused(f.flag, "has no meaning with --auth-method=%s", l.Method)
		}
	}
	if l.Mount == "" {
		l.Mount = string(l.Method)
	}
	switch {
	case !isPath(l.Mount):
		return refused("auth-mount", "must be the path of an auth method, such as approle")
	case l.Method == AppRole && (l.RoleID == "" || !isWord(l.RoleID)):
		return refused("role-id", "must be set to the role's id with --auth-method=approle")
	case l.Method == JWT && l.Role == "":
		return refused("auth-role", "must be set with --auth-method=jwt")
	case l.Role != "" && !isWord(l.Role):
		return refused("auth-role", "must be the name of a role")
	case l.Method == Cert && r.clientCert == "":
		return refused("vault-client-cert", "must be set with --auth-method=cert")
	}
	return l.checkFiles()
}

// checkFiles reports which file a method lacks.
func (l *Login) checkFiles() error {
	for _, f := range []struct {
		flag, path string
		method     Method
	}{{"secret-id-file", l.SecretIDFile, AppRole}, {"jwt-file", l.JWTFile, JWT}, {"token-file", l.TokenFile, TokenFile}} {
		switch {
		case l.Method == f.method && f.path == "":
			return refused(f.flag, "must be set with --auth-method=%s", l.Method)
		case f.path != "" && !filepath.IsAbs(f.path):
			return refused(f.flag, "must be an absolute path")
		}
	}
	return nil
}
