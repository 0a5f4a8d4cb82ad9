package rules

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		window, at string
		want       bool
	}{
		// past midnight: the day is the one on which it opens
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-02T21:59:59Z", false}, // Monday
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-02T22:00:00Z", true},
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-03T00:00:00Z", true},
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-03T03:59:59.9Z", true},
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-03T04:00:00Z", false},
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-02T03:00:00Z", false}, // opened on Sunday
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-07T03:00:00Z", true},  // opened on Friday
		{"Mon-Fri 22:00-04:00 UTC", "2026-03-07T22:00:00Z", false},
		{"Sat 22:00-04:00 UTC", "2026-03-08T03:00:00Z", true}, // a Sunday
		{"Sun 22:00-00:00 UTC", "2026-03-08T23:59:59Z", true},
		{"Sun 22:00-00:00 UTC", "2026-03-09T00:00:00Z", false},
		{"Sun 22:00-24:00 UTC", "2026-03-08T23:59:59Z", true},
		{"Sun 22:00-24:00 UTC", "2026-03-09T00:00:00Z", false},
		{"Sun 00:00-24:00 UTC", "2026-03-08T00:00:00Z", true},
		{"Sun 00:00-24:00 UTC", "2026-03-07T23:59:59Z", false},
		// days
		{"00:00-24:00 UTC", "2026-03-04T12:00:00Z", true},
		{"Sat-Mon 10:00-11:00 UTC", "2026-03-08T10:30:00Z", true},
		{"Sat-Mon 10:00-11:00 UTC", "2026-03-09T10:30:00Z", true},
		{"Sat-Mon 10:00-11:00 UTC", "2026-03-10T10:30:00Z", false},
		{"Tue,thu-FRI 10:00-11:00 UTC", "2026-03-05T10:30:00Z", true},
		{"Tue,thu-FRI 10:00-11:00 UTC", "2026-03-04T10:30:00Z", false},
		// zones
		{"Mon 00:00-02:00 Asia/Shanghai", "2026-03-01T16:00:00Z", true},
		{"Mon 00:00-02:00 Asia/Shanghai", "2026-03-01T15:59:59Z", false},
		{"Mon 22:00-23:00 America/St_Johns", "2026-03-03T02:00:00+00:30", true}, // 3½ hours behind: 22:00 on Monday
		{"Mon 00:15-00:30 Asia/Kathmandu", "2026-03-01T18:30:00Z", true},        // 5¾ ahead
		// 29 March 2026, 02:00 becomes 03:00 in Berlin
		{"02:30-03:30 Europe/Berlin", "2026-03-29T00:59:59Z", false}, // 01:59:59
		{"02:30-03:30 Europe/Berlin", "2026-03-29T01:00:00Z", true},  // 03:00
		{"02:30-03:30 Europe/Berlin", "2026-03-29T01:29:59Z", true},
		{"02:30-03:30 Europe/Berlin", "2026-03-29T01:30:00Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-03-29T01:00:00Z", false}, // not on this day
		{"Sat 22:00-04:00 Europe/Berlin", "2026-03-29T01:59:59Z", true},
		{"Sat 22:00-04:00 Europe/Berlin", "2026-03-29T02:00:00Z", false}, // five hours long
		// 25 October 2026, 03:00 becomes 02:00 in Berlin
		{"02:00-03:00 Europe/Berlin", "2026-10-24T23:59:59Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-10-25T00:00:00Z", true}, // the first time
		{"02:00-03:00 Europe/Berlin", "2026-10-25T01:59:59Z", true}, // the second
		{"02:00-03:00 Europe/Berlin", "2026-10-25T02:00:00Z", false},
		{"Sat 22:00-04:00 Europe/Berlin", "2026-10-25T02:59:59Z", true}, // seven hours long
		{"Sat 22:00-04:00 Europe/Berlin", "2026-10-25T03:00:00Z", false},
		// midnight that is not there: 00:00 becomes 01:00 in Beirut on 29 March
		{"Sun 00:00-02:00 Asia/Beirut", "2026-03-28T22:00:00Z", true},
		{"Sun 00:00-02:00 Asia/Beirut", "2026-03-28T21:59:59Z", false},
	} {
		w, err := parseWindow(tt.window)
		require.NoError(t, err)
		at, err := time.Parse(time.RFC3339, tt.at)
		require.NoError(t, err)
		assert.Equal(t, tt.want, w.contains(at), "%s in %s (%s)", tt.at, tt.window, at.In(w.zone))
	}
}

func FuzzWindow(f *testing.F) {
	for _, s := range []string{"Mon-Fri 22:00-04:00 Europe/Berlin", "Sat,Sun 00:00-24:00 UTC", "22:00-22:00 UTC", "-  Local", "Mon- :-: "} {
		f.Add(s, int64(1_772_452_800))
	}
	f.Fuzz(func(t *testing.T, text string, unix int64) {
		w, err := parseWindow(text)
		if err != nil {
			assert.Less(t, len(err.Error()), 2000)
			return
		}
		w.contains(time.Unix(unix, 0))
		at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC) // a week without a change of clocks
		end := at.AddDate(0, 0, 7)
		for !w.contains(at) && at.Before(end) {
			at = at.Add(time.Minute)
		}
		assert.True(t, at.Before(end), "%q is never open", text)
	})
}
