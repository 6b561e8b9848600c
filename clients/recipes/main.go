// A Go client of Usher by first message, on gorilla/websocket: sends one message, and stays through
// a renewal.
//
// Usage: main URL, with one token a line on stdin: the place of your own token source.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/gorilla/websocket"
)

var tokens = bufio.NewScanner(os.Stdin)

func freshToken() string {
	tokens.Scan()
	return tokens.Text()
}

type message struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Payload json.RawMessage `json:"payload"`
}

func authenticate(socket *websocket.Conn, token string) error {
	return socket.WriteJSON(map[string]any{
		"type": "auth", "id": fmt.Sprint(time.Now().UnixNano()),
		"timestamp": time.Now().UTC().Format(time.RFC3339), "payload": map[string]string{"token": token},
	})
}

func main() {
	token := freshToken() // Before the dial: the first message has 5 seconds.
	socket, _, err := websocket.DefaultDialer.Dial(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	defer socket.Close()
	if err := authenticate(socket, token); err != nil {
		log.Fatal(err)
	}
	for isIn := false; ; {
		_, data, err := socket.ReadMessage()
		if err != nil {
			log.Fatal(err) // A *websocket.CloseError with code and reason: see docs/clients.md.
		}
		var got message
		_ = json.Unmarshal(data, &got) // What is no JSON is the application's.
		switch got.Type {
		case "auth_ok":
			if isIn {
				fmt.Println("renewed")
				return
			}
			isIn = true
			if err := socket.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				log.Fatal(err)
			}
		case "auth_required":
			// One goroutine writes at a time: gorilla allows no more.
			if err := authenticate(socket, freshToken()); err != nil {
				log.Fatal(err)
			}
		default:
			fmt.Println("got", string(data))
		}
	}
}
