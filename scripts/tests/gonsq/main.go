// Command gonsq drives an nsqd from Go: `scenario` and `exchange` through the public client go-nsq, `load` over raw
// sockets. Each prints one JSON object on stdout.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

// negotiated is what every connection asks for.
var negotiated layers

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: gonsq scenario|exchange|load [flags]"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	address := flags.String("tcp", "127.0.0.1:4150", "TCP address of nsqd")
	prefix := flags.String("prefix", "t", "prefix of topic names")
	count := flags.Int("count", 1000000, "exchange, load: number of messages")
	size := flags.Int("size", 200, "load: bytes per message")
	batch := flags.Int("batch", 200, "load: messages per MPUB")
	window := flags.Int("window", 16, "load: MPUBs under way")
	flags.StringVar(&negotiated.ca, "tls-ca", "", "PEM file of the CA to believe; TLS is asked for")
	flags.BoolVar(&negotiated.snappy, "snappy", false, "ask for snappy")
	flags.IntVar(&negotiated.deflate, "deflate", 0, "ask for deflate of this level")
	flags.StringVar(&negotiated.secret, "secret", "", "scenario, exchange: secret for AUTH")
	fail(flags.Parse(os.Args[2:]))
	var result interface{}
	var err error
	switch os.Args[1] {
	case "scenario":
		result, err = runScenario(*address, *prefix)
	case "exchange":
		result, err = runExchange(*address, *prefix, *count)
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
