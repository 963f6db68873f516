package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/golang/snappy"
	nsq "github.com/nsqio/go-nsq"
)

// layers is what a connection asks for in its IDENTIFY.
type layers struct {
	ca      string // PEM file of the CA to believe; empty = no TLS
	snappy  bool
	deflate int    // level, 0 = none
	secret  string // for AUTH; empty = none
}

func (l layers) tlsConfig() (*tls.Config, error) {
	text, err := os.ReadFile(l.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", l.ca)
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}, nil
}

// configure asks go-nsq for the layers.
func (l layers) configure(c *nsq.Config) (err error) {
	if l.ca != "" {
		c.TlsV1 = true
		if c.TlsConfig, err = l.tlsConfig(); err != nil {
			return err
		}
	}
	c.Snappy = l.snappy
	c.Deflate = l.deflate > 0
	if c.Deflate {
		c.DeflateLevel = l.deflate
	}
	c.AuthSecret = l.secret
	return nil
}

// conn is a connection with its layers; Write sends all of what it is given.
type conn struct {
	net.Conn
	reader io.Reader
	writer io.Writer
	flush  func() error
}

func (c *conn) Read(b []byte) (int, error) { return c.reader.Read(b) }

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.writer.Write(b)
	if err == nil {
		err = c.flush()
	}
	return n, err
}

// upgrade negotiates the layers on a raw connection.
func (l layers) upgrade(raw net.Conn) (net.Conn, error) {
	if l == (layers{}) {
		return raw, nil
	}
	body, err := json.Marshal(map[string]interface{}{
		"feature_negotiation": true, "tls_v1": l.ca != "", "snappy": l.snappy,
		"deflate": l.deflate > 0, "deflate_level": l.deflate,
	})
	if err != nil {
		return nil, err
	}
	command := appendUint32([]byte("IDENTIFY\n"), uint32(len(body)))
	if _, err := raw.Write(append(command, body...)); err != nil {
		return nil, err
	}
	if _, err := response(raw); err != nil {
		return nil, err
	}
	if l.ca != "" {
		config, err := l.tlsConfig()
		if err != nil {
			return nil, err
		}
		raw = tls.Client(raw, config)
		if err := expectExactly(raw); err != nil {
			return nil, err
		}
	}
	c := &conn{raw, raw, raw, func() error { return nil }}
	switch {
	case l.snappy:
		c.reader, c.writer = snappy.NewReader(raw), snappy.NewWriter(raw)
	case l.deflate > 0:
		out, err := flate.NewWriter(raw, l.deflate)
		if err != nil {
			return nil, err
		}
		c.reader, c.writer, c.flush = flate.NewReader(bufio.NewReaderSize(raw, 64<<10)), out, out.Flush
	default:
		return raw, nil
	}
	return c, expectExactly(c)
}

// response reads one frame and not a byte more.
func response(r io.Reader) ([]byte, error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(header[:])) - 4
	if size < 0 || size > 1<<20 {
		return nil, fmt.Errorf("frame of %d bytes", size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	if kind := binary.BigEndian.Uint32(header[4:]); kind != frameResponse {
		return nil, fmt.Errorf("frame %d %q", kind, data)
	}
	return data, nil
}

func expectExactly(r io.Reader) error {
	data, err := response(r)
	if err == nil && !bytes.Equal(data, []byte("OK")) {
		err = fmt.Errorf("expected OK, got %q", data)
	}
	return err
}
