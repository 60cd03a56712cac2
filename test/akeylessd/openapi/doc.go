// Package openapi compares Akeyless' double, and the provider's requests to it, with the OpenAPI
// description that Akeyless publishes in its Go client. It is a module of its own so that neither
// the client nor the validator become dependencies of the product.
package openapi

// The client's module is needed for its description alone.
import _ "github.com/akeylesslabs/akeyless-go/v4"
