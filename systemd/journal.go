package systemd

import (
	"fmt"
	"io"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"

	"github.com/wslmirror/wslmirror/internal/text"
)

// LogToJournal makes l write to the journal if standard error is connected to it. The
// fields of l become fields of the journal. Otherwise l stays unchanged.
func LogToJournal(l *logrus.Logger) {
	if ok, err := journal.StderrIsJournalStream(); err != nil || !ok {
		return
	}
	if !journal.Enabled() {
		// There is only the stream, and the journal adds the time itself.
		l.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
		return
	}
	l.AddHook(journalHook{journal.Send})
	l.SetOutput(io.Discard)
}

type journalHook struct {
	send func(message string, p journal.Priority, vars map[string]string) error
}

func (journalHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h journalHook) Fire(e *logrus.Entry) error {
	message := text.Escaped(e.Message)
	vars := make(map[string]string, len(e.Data)+1)
	// systemd shows entries with this name, whatever the name of the binary.
	vars["SYSLOG_IDENTIFIER"] = "wslmirror"
	for key, value := range e.Data {
		shown := text.Escaped(fmt.Sprint(value))
		vars[fieldName(key)] = shown
		if key == logrus.ErrorKey {
			// journalctl does not show fields, and the error should be visible.
			message += ": " + shown
		}
	}
	return h.send(message, priority(e.Level), vars)
}

// fieldName returns key as the journal requires it: upper-case letters, digits and
// underscores, not beginning with an underscore (systemd.journal-fields(7)). The prefix
// avoids names that have a meaning for systemd.
func fieldName(key string) string {
	return "WSLMIRROR_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func priority(l logrus.Level) journal.Priority {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return journal.PriCrit
	case logrus.ErrorLevel:
		return journal.PriErr
	case logrus.WarnLevel:
		return journal.PriWarning
	case logrus.InfoLevel:
		return journal.PriInfo
	}
	return journal.PriDebug
}
