// A client of java.net.http with its defaults. It prefers HTTP/2, and asks for it with `Upgrade: h2c`
// in every request over plain TCP.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Client {
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String address = arguments[0];
        String token = new String(System.in.readAllBytes()).trim();
        for (int turn = 0; turn < 2; turn++) {
            expect("a plain request", 200, "hello", send(request(address, "/public/hello").GET().build()));
        }
        HttpRequest upload = request(address, "/public/echo").POST(BodyPublishers.ofString("body")).build();
        expect("an upload", 200, "body", send(upload));

        HttpRequest ask = request(address, "/websocket/ticket")
                .header("Authorization", "Bearer " + token)
                .POST(BodyPublishers.ofString("{}"))
                .build();
        HttpResponse<String> issued = send(ask);
        expect("a ticket", 201, null, issued);
        Matcher ticket = Pattern.compile("\"ticket_id\":\"([^\"]+)\"").matcher(issued.body());
        if (!ticket.find()) {
            throw new AssertionError("no ticket in the answer");
        }

        CompletableFuture<String> heard = new CompletableFuture<>();
        WebSocket socket = CLIENT.newWebSocketBuilder()
                .buildAsync(URI.create("ws://" + address + "/ws?ticket=" + ticket.group(1)), new Listener(heard))
                .get(40, TimeUnit.SECONDS);
        socket.sendText("hi", true).get(40, TimeUnit.SECONDS);
        if (!heard.get(40, TimeUnit.SECONDS).equals("hi")) {
            throw new AssertionError("another message came back");
        }
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "").get(40, TimeUnit.SECONDS);
        System.out.println("ok");
        System.exit(0);
    }

    static HttpRequest.Builder request(String address, String path) {
        return HttpRequest.newBuilder(URI.create("http://" + address + path));
    }

    static HttpResponse<String> send(HttpRequest request) throws Exception {
        return CLIENT.send(request, BodyHandlers.ofString());
    }

    static void expect(String what, int status, String body, HttpResponse<String> answer) {
        if (answer.statusCode() != status || (body != null && !body.equals(answer.body()))) {
            throw new AssertionError(what + ": " + answer.statusCode() + " " + answer.body());
        }
    }

    static class Listener implements WebSocket.Listener {
        final CompletableFuture<String> heard;

        Listener(CompletableFuture<String> heard) {
            this.heard = heard;
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence text, boolean last) {
            heard.complete(text.toString());
            socket.request(1);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            heard.completeExceptionally(error);
        }
    }
}
