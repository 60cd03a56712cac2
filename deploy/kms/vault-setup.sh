#!/usr/bin/env bash
# Sets up Vault or OpenBao for mayfly-kms: the Transit engine, the key, a policy
# that grants no more than is needed, and an AppRole. It changes nothing that is
# there already, but the policy and the role, and may be run again.
#
#   VAULT_ADDR=https://vault.example.com:8200 VAULT_TOKEN=... ./vault-setup.sh
#
# It prints the role id. A secret id is made for each node:
#
#   vault write -field=secret_id -f auth/approle/role/mayfly-kms/secret-id
#
# Settings, as environment variables:
#   VAULT       the command line: vault (default) or bao
#   TRANSIT     the mount of the Transit engine (transit)
#   KEY         the name of the key (kubernetes): one key for each cluster
#   ROTATE      the key's auto_rotate_period, such as 2160h; 0 for none (0)
#   APPROLE     the mount of the AppRole method (approle)
#   ROLE        the name of the role and of the policy (mayfly-kms)
#   CIDRS       networks of the control plane, separated by commas: the secret id
#               and its tokens work from there alone (any)
set -euo pipefail

vault=${VAULT:-vault}
transit=${TRANSIT:-transit}
key=${KEY:-kubernetes}
rotate=${ROTATE:-0}
approle=${APPROLE:-approle}
role=${ROLE:-mayfly-kms}
cidrs=${CIDRS:-}

say() { printf '%s\n' "$*" >&2; }

for name in "$transit" "$key" "$approle" "$role"; do
  if [[ ! $name =~ ^[A-Za-z0-9._/-]+$ ]]; then
    say "vault-setup.sh: \"$name\" has letters that no mount, key or role should have"
    exit 2
  fi
done

# has KIND MOUNT tells whether there is a secrets engine or an auth method.
has() {
  local list
  list=$("$vault" "$1" list -format=json)
  grep -qF "\"$2/\":" <<<"$list"
}

if ! has secrets "$transit"; then
  "$vault" secrets enable -path="$transit" transit >&2
fi

if ! "$vault" read "$transit/keys/$key" >/dev/null 2>&1; then
  "$vault" write -f "$transit/keys/$key" type=aes256-gcm96 exportable=false allow_plaintext_backup=false >&2
fi
"$vault" write "$transit/keys/$key/config" deletion_allowed=false auto_rotate_period="$rotate" >&2

# No encrypt makes a key by itself, whatever any policy grants.
"$vault" write "$transit/config/keys" disable_upsert=true >&2

"$vault" policy write "$role" - >&2 <<POLICY
path "$transit/keys/$key" {
  capabilities = ["read"]
}

path "$transit/encrypt/$key" {
  capabilities = ["update"]
}

path "$transit/decrypt/$key" {
  capabilities = ["update"]
}
POLICY

if ! has auth "$approle"; then
  "$vault" auth enable -path="$approle" approle >&2
fi

# A periodic token has no end as long as it is renewed. A secret id may be used
# any number of times: the plugin logs in again after each restart.
"$vault" write "auth/$approle/role/$role" token_policies="$role" token_period=1h token_num_uses=0 \
  secret_id_num_uses=0 secret_id_ttl=0 secret_id_bound_cidrs="$cidrs" token_bound_cidrs="$cidrs" >&2

"$vault" read -field=role_id "auth/$approle/role/$role/role-id"
echo
