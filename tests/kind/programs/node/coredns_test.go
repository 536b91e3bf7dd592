package main

import "testing"

func TestWhatIsMissingIsLeftOut(t *testing.T) {
	given := ".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    prometheus :9153\n    loop\n    reload\n}\n"
	wanted := ".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    reload\n}\n"
	if got := understood(given); got != wanted {
		t.Errorf("got:\n%s", got)
	}
}
