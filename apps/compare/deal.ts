// Who holds which texts: a function of the data and the seed, the same for every configuration of that seed, so that
// differences between configurations are paired.
import {
  collectLabels,
  type RandomStream,
  randomStream,
  type TextRow,
} from "../../runtime/index.ts";
import { dealSkewed, dirichlet } from "../skew.ts";
import { compareErrors } from "./errors.ts";

/** The texts of a comparison. */
export interface ComparisonData {
  readonly train: readonly TextRow[];
  readonly test: readonly TextRow[];
  /** Texts every party may see; taken from `train` when absent. */
  readonly public?: readonly TextRow[];
}

/** How training texts are dealt: evenly, or with each label shared out by a draw of Dirichlet(alpha, ..., alpha). */
export type Partition =
  | { readonly kind: "iid" }
  | { readonly kind: "dirichlet"; readonly alpha: number };

/** "iid" or "dirichlet 0.5". */
export function partitionText(partition: Partition): string {
  return partition.kind === "iid" ? "iid" : `dirichlet ${partition.alpha}`;
}

/** How much each party gets. */
export interface DealOptions {
  readonly seed: number;
  readonly deviceIds: readonly string[];
  readonly partition: Partition;
  /** Most texts of one device; no limit when left out. */
  readonly rowsPerDevice?: number | undefined;
  /** A draw that leaves a device fewer texts is drawn again. */
  readonly minimumRows: number;
  /** Texts of the public set; the configuration that takes fewer takes the first ones. */
  readonly publicSize: number;
}

/** The texts of each party. */
export interface Deal {
  /** By device id. */
  readonly devices: ReadonlyMap<string, readonly TextRow[]>;
  readonly publicSet: readonly TextRow[];
}

/** Texts alone. */
export function unlabelled(rows: readonly TextRow[]): readonly TextRow[] {
  return rows.map(({ text }) => ({ text, label: undefined }));
}

/** Deals the texts; throws `COMPARISON_DATA_TOO_SMALL` when a device or the public set would get too few. */
export function dealRows(data: ComparisonData, options: DealOptions): Deal {
  const { seed, deviceIds, publicSize, minimumRows } = options;
  const random = randomStream(seed, "compare-data");
  const shuffled = random.shuffle(data.train);
  const [publicSet, rest] = data.public
    ? [random.shuffle(data.public).slice(0, publicSize), shuffled]
    : [shuffled.slice(0, publicSize), shuffled.slice(publicSize)];
  const hands = dealTo(random, rest, options);
  if (publicSet.length < publicSize || hands?.some((rows) => rows.length < minimumRows) !== false) {
    throw compareErrors.error(
      "COMPARISON_DATA_TOO_SMALL",
      `${data.train.length} training texts do not give ${publicSize} public ones and ` +
        `${minimumRows} to each of ${deviceIds.length} devices (${partitionText(options.partition)})`,
      { hint: "Lower devices.count, devices.minimumRows or data.publicSize, or give more texts." },
    );
  }
  const devices = deviceIds.map(
    (id, i) => [id, random.shuffle(hands[i] as readonly TextRow[])] as const,
  );
  return { devices: new Map(devices), publicSet };
}

function dealTo(
  random: RandomStream,
  rows: readonly TextRow[],
  { deviceIds, partition, rowsPerDevice = rows.length, minimumRows }: DealOptions,
): readonly (readonly TextRow[])[] | undefined {
  const parties = deviceIds.length;
  if (partition.kind === "iid") {
    const size = Math.min(rowsPerDevice, Math.floor(rows.length / parties));
    return deviceIds.map((_, i) => rows.slice(i * size, (i + 1) * size));
  }
  const pool = rows.slice(0, rowsPerDevice * parties);
  const classes = collectLabels(pool).map((label) => pool.filter((row) => row.label === label));
  return dealSkewed(random, classes, {
    parties,
    drawShares: (stream) => dirichlet(stream, parties, partition.alpha),
    maximumRows: rowsPerDevice,
    minimumRows,
    minimumClassFraction: 0,
  });
}
