// Command gonsq drives an nsqd from Go: `scenario` through the public client go-nsq, `load` over raw sockets.
// Both print one JSON object on stdout.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: gonsq scenario|load [flags]"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("tcp", "127.0.0.1:4150", "TCP address of nsqd")
	prefix := flags.String("prefix", "t", "prefix of topic names")
	count := flags.Int("count", 1000000, "load: number of messages")
	size := flags.Int("size", 200, "load: bytes per message")
	batch := flags.Int("batch", 200, "load: messages per MPUB")
	window := flags.Int("window", 16, "load: MPUBs under way")
	fail(flags.Parse(os.Args[2:]))
	var result interface{}
	var err error
	switch os.Args[1] {
	case "scenario":
		result, err = runScenario(*address, *prefix)
	case "load":
		result, err = runLoad(*address, *prefix, loadShape{*count, *size, *batch, *window})
	default:
		err = fmt.Errorf("unknown mode %q", os.Args[1])
	}
	fail(err)
	fail(json.NewEncoder(os.Stdout).Encode(result))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gonsq:", err)
		os.Exit(1)
	}
}
