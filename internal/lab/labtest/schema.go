package labtest

import (
	"bytes"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/wslmirror/wslmirror/packaging/schema"
)

var schemas sync.Map // compiled, by the name of the document

// WantValid fails the test unless a document is as its schema says, for example "status".
// It must not have members that the schema does not describe, though the schema allows
// them.
func WantValid(tb testing.TB, document string, text []byte) {
	tb.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		tb.Fatalf("%s: %v\n%s", document, err, text)
	}
	compiled, ok := schemas.Load(document)
	if !ok {
		compiled = compileSchema(tb, document)
		schemas.Store(document, compiled)
	}
	if err := compiled.(*jsonschema.Schema).Validate(value); err != nil {
		tb.Errorf("%s is not as its schema says: %v\n%s", document, err, text)
	}
}

func compileSchema(tb testing.TB, document string) *jsonschema.Schema {
	tb.Helper()
	b, err := schema.Files.ReadFile(document + ".json")
	if err != nil {
		tb.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		tb.Fatalf("the schema of %s: %v", document, err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource(document, closed(value)); err != nil {
		tb.Fatal(err)
	}
	s, err := c.Compile(document)
	if err != nil {
		tb.Fatalf("the schema of %s: %v", document, err)
	}
	return s
}

// closed allows no members in a schema but those that are described.
func closed(schema any) any {
	switch s := schema.(type) {
	case map[string]any:
		for k, v := range s {
			s[k] = closed(v)
		}
		if _, ok := s["required"]; ok {
			s["additionalProperties"] = false
		}
	case []any:
		for i, v := range s {
			s[i] = closed(v)
		}
	}
	return schema
}
