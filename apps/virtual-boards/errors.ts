// Codes of boards that are processes of this machine.
import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/virtual-boards`. */
export const virtualBoardErrors = defineErrors({
  VIRTUAL_BOARD_FAILED: "A virtual board's process ended or could not take part.",
});
