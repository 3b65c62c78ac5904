import java.nio.charset.StandardCharsets;
import peer.FSUServiceServiceLocator;

/** A centre's client that Apache Axis 1 made from the WSDL: each line on stdin is a payload to send, each answer a line. */
public final class AxisCentre {
    private AxisCentre() {
    }

    /** Calls the address that stands in the WSDL. */
    public static void main(String[] arguments) throws Exception {
        String[] asked = new String(System.in.readAllBytes(), StandardCharsets.UTF_8).split("\n");
        FSUServiceServiceLocator locator = new FSUServiceServiceLocator();
        for (String payload : asked) {
            String answer = locator.getFSUService().invoke(payload).replaceAll("\\s*\n\\s*", "") + "\n";
            System.out.write(answer.getBytes(StandardCharsets.UTF_8));
        }
        System.out.flush();
    }
}
