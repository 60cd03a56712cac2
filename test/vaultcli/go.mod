// Vault's own command line, built from the module proxy for the commands that
// the pages print. The module stands alone so that none of this reaches the
// driver's own dependencies.
module github.com/mayfly-csi/mayfly/test/vaultcli

go 1.26.0

require github.com/hashicorp/vault v1.21.0

replace github.com/hashicorp/vault/sdk => github.com/hashicorp/vault/sdk v0.20.0
