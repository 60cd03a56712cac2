# What mayfly-kms may do, and no more. Put the mount and the key in place of
# transit and kubernetes.
#
# There is no "create" on encrypt: with it, Vault makes a new key in silence
# where the key is gone, and all that was encrypted before is lost. Rotation,
# settings, deletion, export and backup belong to whoever runs Vault.
#
# The token also needs Vault's policy "default", for lookup-self, renew-self,
# revoke-self and capabilities-self.

path "transit/keys/kubernetes" {
  capabilities = ["read"]
}

path "transit/encrypt/kubernetes" {
  capabilities = ["update"]
}

path "transit/decrypt/kubernetes" {
  capabilities = ["update"]
}
