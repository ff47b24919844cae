// Package schema contains the JSON Schemas of the documents that wslmirror prints, for
// tests. The packages install them.
package schema

import "embed"

// Files are the schemas, by the names of the documents: status.json and so on.
//
//go:embed *.json
var Files embed.FS
