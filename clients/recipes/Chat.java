// A Java client of Usher by first message, on the JDK's own WebSocket: sends one message, and stays
// through a renewal.
//
// Usage: java Chat.java URL, with one token a line on stdin: the place of your own token source.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.time.Instant;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

public class Chat implements WebSocket.Listener {
    static final BufferedReader TOKENS = new BufferedReader(new InputStreamReader(System.in));
    final CompletableFuture<Void> over = new CompletableFuture<>();
    // A message may come in parts.
    final StringBuilder text = new StringBuilder();
    boolean isIn;

    static String freshToken() throws Exception {
        return TOKENS.readLine();
    }

    static CompletionStage<WebSocket> authenticate(WebSocket socket, String token) {
        String message = "{\"type\":\"auth\",\"id\":\"%s\",\"timestamp\":\"%s\",\"payload\":{\"token\":\"%s\"}}";
        return socket.sendText(message.formatted(UUID.randomUUID(), Instant.now(), token), true);
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean isLast) {
        text.append(part);
        if (isLast) {
            String message = text.toString();
            text.setLength(0);
            try {
                handle(socket, message);
            } catch (Exception error) {
                over.completeExceptionally(error);
            }
        }
        socket.request(1);
        return null;
    }

    void handle(WebSocket socket, String message) throws Exception {
        // Use a JSON library: the order of the names is not promised.
        if (message.contains("\"type\":\"auth_ok\"")) {
            if (isIn) {
                System.out.println("renewed");
                over.complete(null);
            }
            isIn = true;
            socket.sendText("hello", true);
        } else if (message.contains("\"type\":\"auth_required\"")) {
            authenticate(socket, freshToken());
        } else {
            System.out.println("got " + message);
        }
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        over.completeExceptionally(new IllegalStateException(code + " " + reason));
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        over.completeExceptionally(error);
    }

    public static void main(String[] arguments) throws Exception {
        String token = freshToken(); // Before the dial: the first message has 5 seconds.
        Chat chat = new Chat();
        WebSocket socket = HttpClient.newHttpClient().newWebSocketBuilder()
                .buildAsync(URI.create(arguments[0]), chat).join();
        authenticate(socket, token);
        chat.over.get();
        System.exit(0);
    }
}
