package doctor

import (
	"encoding/json"
	"strings"
)

// A checkJSON is the JSON of a Check. It is an interface: fields and checks may be added,
// never renamed or removed (docs/json.md).
type checkJSON struct {
	Name    string   `json:"name"`
	Verdict string   `json:"verdict"`
	Reason  string   `json:"reason"`
	Impact  string   `json:"impact,omitempty"`
	Fix     []string `json:"fix"`
	Issue   string   `json:"issue,omitempty"`
}

// MarshalJSON writes Do as a list of commands, and the verdict with the name that it has in
// the Summary.
func (c Check) MarshalJSON() ([]byte, error) {
	fix := []string{}
	if c.Do != "" {
		fix = strings.Split(c.Do, "\n")
	}
	return json.Marshal(checkJSON{c.Name, strings.ReplaceAll(string(c.Verdict), " ", "_"), c.Seen, c.Why, fix, c.Link})
}

// UnmarshalJSON reads the output of MarshalJSON.
func (c *Check) UnmarshalJSON(b []byte) error {
	var in checkJSON
	err := json.Unmarshal(b, &in)
	*c = Check{in.Name, Verdict(strings.ReplaceAll(in.Verdict, "_", " ")), in.Reason, in.Impact, strings.Join(in.Fix, "\n"), in.Issue}
	return err
}
