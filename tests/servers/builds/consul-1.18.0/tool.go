//go:build tools

package t
import _ "github.com/hashicorp/consul"
